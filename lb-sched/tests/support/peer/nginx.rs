//! nginx's configuration for a test.

use super::server::NamedServers;
use super::{Pool, socket};
use std::fmt::Write;
use std::path::Path;

/// One process, everything it writes in the test's directory; the path's first part names the pool. A client's
/// address comes in the PROXY protocol, so that a test can be any client.
pub(super) fn configuration(pools: &[Pool], servers: &NamedServers, directory: &Path) -> String {
    let folder = directory.display();
    let mut text = format!(
        "daemon off;
master_process off;
pid {folder}/pid;
error_log stderr warn;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    keepalive_requests 1000000;
    proxy_buffering off;
    set_real_ip_from unix:;
    real_ip_header proxy_protocol;
",
    );
    for (number, pool) in pools.iter().enumerate() {
        let _ = writeln!(text, "    upstream pool{number} {{");
        for line in pool.algorithm.lines() {
            let _ = writeln!(text, "        {line}");
        }
        for (i, weight) in pool.weights.iter().enumerate() {
            let state = weight.map_or_else(|| "down".to_owned(), |weight| format!("weight={weight}"));
            let _ = writeln!(text, "        server {} {state} max_fails=0;", servers.address(i));
        }
        text.push_str("    }\n");
    }
    let _ =
        writeln!(text, "    server {{\n        listen unix:{} proxy_protocol;", socket(directory).display());
    for number in 0..pools.len() {
        let _ = writeln!(text, "        location /pool{number}/ {{ proxy_pass http://pool{number}; }}");
    }
    text.push_str("    }\n}\n");
    text
}
