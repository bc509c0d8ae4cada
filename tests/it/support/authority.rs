//! Authorities of a test's own, and the certificates that they make.

use std::{path::Path, time::Duration};

use lifeboat::process::Program;

/// An authority, and a certificate that it made for `name`.
pub(crate) async fn certificate(folder: &Path, label: &str, name: &str) {
    let openssl = |arguments: &str| {
        let program = Program::new("openssl").folder(folder).args(arguments.split(' '));
        async move { program.output(Duration::from_secs(30)).await.unwrap() }
    };
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2";
    openssl(&format!("req -x509 {key} -keyout {label}-ca.key -out {label}-ca.crt -subj /CN={label}")).await;
    openssl(&format!(
        "req -x509 {key} -keyout {label}.key -out {label}.crt -subj /CN={label} -CA {label}-ca.crt \
         -CAkey {label}-ca.key -addext subjectAltName={name} -addext basicConstraints=critical,CA:FALSE"
    ))
    .await;
}
