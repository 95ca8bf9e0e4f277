//! Debian's HAProxy and nginx: the director's work for each, in its own words.

use crate::serving::{Directory, Places, Proxy, ServingError, find, free_address};
use std::net::SocketAddr;

impl Proxy {
    /// Debian's HAProxy.
    pub(crate) fn haproxy(
        directory: &Directory,
        servers: &[SocketAddr],
        workers: usize,
        places: &Places,
    ) -> Result<Self, ServingError> {
        let binary = find("haproxy", "haproxy")?;
        let address = free_address()?;
        let file = directory.write("haproxy.cfg", &haproxy_configuration(address, servers, workers))?;
        let mut command = places.proxy_command(binary);
        command.args(["-db", "-f"]).arg(file);
        Self::start("haproxy", command, address, directory)
    }

    /// Debian's nginx.
    pub(crate) fn nginx(
        directory: &Directory,
        servers: &[SocketAddr],
        workers: usize,
        places: &Places,
    ) -> Result<Self, ServingError> {
        let binary = find("nginx", "nginx-light")?;
        let address = free_address()?;
        let text = nginx_configuration(address, servers, workers, directory);
        let file = directory.write("nginx.conf", &text)?;
        let mut command = places.proxy_command(binary);
        command.arg("-c").arg(file);
        Self::start("nginx", command, address, directory)
    }
}

fn haproxy_configuration(listen: SocketAddr, servers: &[SocketAddr], workers: usize) -> String {
    let mut text = format!(
        "global
    nbthread {workers}
    maxconn 4000
defaults
    mode http
    option forwardfor
    http-reuse always
    timeout connect 5s
    timeout client 50s
    timeout server 50s
frontend test
    bind {listen}
    default_backend servers
backend servers
    balance roundrobin
"
    );
    for (i, server) in servers.iter().enumerate() {
        text.push_str(&format!("    server s{i} {server}\n"));
    }
    text
}

/// As nginx's own guide to keep-alive upstreams has it; `keepalive_requests` so that no connection is closed
/// during the comparison, which nginx does after 1000 requests and the others do not.
fn nginx_configuration(
    listen: SocketAddr,
    servers: &[SocketAddr],
    workers: usize,
    directory: &Directory,
) -> String {
    let file = |name: &str| directory.file(name).display().to_string();
    let servers: String = servers.iter().map(|server| format!("        server {server};\n")).collect();
    format!(
        "daemon off;
worker_processes {workers};
pid {pid};
error_log stderr error;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path {body};
    proxy_temp_path {proxy};
    fastcgi_temp_path {fastcgi};
    uwsgi_temp_path {uwsgi};
    scgi_temp_path {scgi};
    upstream servers {{
{servers}        keepalive 128;
        keepalive_requests 100000000;
    }}
    server {{
        listen {listen} reuseport;
        keepalive_requests 100000000;
        location / {{
            proxy_pass http://servers;
            proxy_http_version 1.1;
            proxy_set_header Connection \"\";
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
        }}
    }}
}}
",
        pid = file("nginx.pid"),
        body = file("body"),
        proxy = file("proxy"),
        fastcgi = file("fastcgi"),
        uwsgi = file("uwsgi"),
        scgi = file("scgi"),
    )
}
