//! Certificates for both ends of an encrypted migration, for two days and the name `localhost`.
#![allow(dead_code, unreachable_pub)] // no one file of tests needs it all

use std::fs;
use std::path::Path;
use std::process::Command;

/// An authority, and what it has signed for a server and for a client.
pub fn make(directory: &Path) {
    fs::create_dir_all(directory).unwrap();
    let openssl = |arguments: &str| {
        let done = Command::new("openssl").args(arguments.split(' ')).current_dir(directory).output();
        let done = done.expect("openssl");
        assert!(done.status.success(), "{arguments}: {}", String::from_utf8_lossy(&done.stderr));
    };
    openssl(
        "req -x509 -newkey rsa:2048 -nodes -keyout ca-key.pem -out ca-cert.pem -days 2 -subj /CN=authority -addext keyUsage=keyCertSign",
    );
    for (who, usage) in [("server", "serverAuth"), ("client", "clientAuth")] {
        let extensions = format!(
            "subjectAltName=DNS:localhost\nkeyUsage=digitalSignature,keyEncipherment\nextendedKeyUsage={usage}\n"
        );
        fs::write(directory.join("extensions"), extensions).unwrap();
        openssl(&format!(
            "req -newkey rsa:2048 -nodes -keyout {who}-key.pem -out {who}.csr -subj /CN=localhost"
        ));
        openssl(&format!(
            "x509 -req -in {who}.csr -CA ca-cert.pem -CAkey ca-key.pem -CAcreateserial -days 2 -extfile extensions -out {who}-cert.pem"
        ));
    }
}
