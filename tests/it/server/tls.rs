//! TLS on the public listener.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use rustls::version::{TLS12, TLS13};
use sekisho::server::{CertificateError, ServerLimits};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::db;
use crate::support::process::{ServerProcess, TestDeployment, until};
use crate::support::test_server::{Files, GET, TestServer, ask, get1, read_until_closed, send_and_read};
use crate::support::upstream::Upstream;

fn serving(files: &Files, limits: ServerLimits) -> TestServer {
    TestServer::with(1, limits, Some(files.load().unwrap())).0
}

fn get_secured(path: &str) -> Request<()> {
    Request::get(format!("https://app.example{path}")).body(()).unwrap()
}

#[tokio::test]
async fn tls_1_2_and_1_3_use_the_negotiated_protocol() {
    let files = Files::good();
    let server = serving(&files, ServerLimits::default());
    for version in [&TLS12, &TLS13] {
        let mut socket = files.connect(server.address, &["http/1.1"], &[version]).await.unwrap();
        assert_eq!(socket.get_ref().1.protocol_version(), Some(version.version));
        let response = send_and_read(&mut socket, GET).await;
        assert!(response.contains("version=HTTP/1.1") && response.contains("secured=true"), "{response}");
        // HTTP/1.1 without ALPN.
        let mut socket = files.connect(server.address, &[], &[version]).await.unwrap();
        assert!(send_and_read(&mut socket, GET).await.contains("version=HTTP/1.1"));
        let socket = files.connect(server.address, &["h2", "http/1.1"], &[version]).await.unwrap();
        assert_eq!(socket.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let (mut client, connection) = h2::client::handshake(socket).await.unwrap();
        tokio::spawn(connection);
        let (_, _, body) = ask(&mut client, get_secured("/")).await.unwrap();
        assert!(body.contains("version=HTTP/2.0") && body.contains("secured=true"), "{body}");
    }
    let strange = files.connect(server.address, &["spdy/1"], &[&TLS13]).await;
    assert!(strange.is_err());
}

/// A TLS 1.1 ClientHello.
#[tokio::test]
async fn tls_versions_below_1_2_are_rejected() {
    let files = Files::good();
    let server = serving(&files, ServerLimits::default());
    for minor in [1, 2] {
        let mut hello = vec![3, minor];
        hello.extend([7; 32]);
        hello.extend([0, 0, 4, 0xc0, 0x13, 0, 0x2f, 1, 0]);
        let length = u8::try_from(hello.len()).unwrap();
        let mut record = vec![22, 3, minor, 0, length + 4, 1, 0, 0, length];
        record.extend(hello);
        let mut socket = server.connect().await;
        socket.write_all(&record).await.unwrap();
        let mut response = Vec::new();
        let _ = socket.read_to_end(&mut response).await;
        // A fatal alert: protocol_version or handshake_failure.
        assert_eq!((response[0], response[5]), (21, 2), "{response:?}");
        assert!(matches!(response[6], 70 | 40), "{response:?}");
    }
    // Cleartext HTTP.
    let mut socket = server.connect().await;
    socket.write_all(GET.as_bytes()).await.unwrap();
    assert!(!read_until_closed(&mut socket).await.contains("HTTP/1.1"));
}

#[tokio::test]
async fn https_responses_carry_hsts() {
    let files = Files::good();
    let server = serving(&files, ServerLimits::default());
    let mut socket = files.connect(server.address, &[], &[&TLS13]).await.unwrap();
    let response = send_and_read(&mut socket, GET).await;
    assert!(response.contains("strict-transport-security: max-age=31536000\r\n"), "{response}");
    let own = send_and_read(&mut socket, &get1("/hsts")).await;
    assert!(own.contains("strict-transport-security: max-age=1\r\n"), "{own}");
    assert_eq!(own.matches("strict-transport-security").count(), 1);
    let (plain, _seen) = TestServer::start(1, ServerLimits::default());
    assert!(!send_and_read(&mut plain.connect().await, GET).await.contains("strict-transport-security"));
}

#[tokio::test]
async fn tls_handshake_times_out_and_counts_as_a_connection() {
    let header_timeout = Duration::from_secs(3);
    let files = Files::good();
    let server = serving(&files, ServerLimits { header_timeout, connections: 1, ..ServerLimits::default() });
    let start = Instant::now();
    let mut silent = server.connect().await;
    // A connection beyond the limit is closed without a response, which would require a handshake.
    assert!(files.connect(server.address, &[], &[&TLS13]).await.is_err());
    assert_eq!(read_until_closed(&mut silent).await, "");
    assert!(start.elapsed() >= header_timeout);
    until("the connection slot to be free", async || {
        let mut socket = files.connect(server.address, &[], &[&TLS13]).await.ok()?;
        send_and_read(&mut socket, GET).await.contains("200 OK").then_some(())
    })
    .await;
}

#[tokio::test]
async fn tls_request_is_answered_during_shutdown() {
    let files = Files::good();
    let server = serving(&files, ServerLimits::default());
    let mut idle = files.connect(server.address, &[], &[&TLS13]).await.unwrap();
    assert!(send_and_read(&mut idle, GET).await.contains("200 OK"));
    let address = server.address;
    let draining = tokio::spawn(async move { server.threads.drain().await });
    until("the port to be closed", async || TcpStream::connect(address).await.is_err().then_some(())).await;
    assert!(send_and_read(&mut idle, GET).await.contains("connection: close\r\n"));
    assert_eq!(read_until_closed(&mut idle).await, "");
    drop(idle);
    draining.await.unwrap();
}

#[tokio::test]
async fn unusable_certificates_are_named() {
    let fault = |files: &Files| files.load().unwrap_err();
    let files = Files::good();
    assert!(files.load().is_ok());
    std::fs::write(files.key(), "no key").unwrap();
    assert!(matches!(fault(&files), CertificateError::NoKey(path) if path == files.key()));
    std::fs::copy(Files::good().key(), files.key()).unwrap();
    assert!(matches!(fault(&files), CertificateError::Mismatch { .. }));
    std::fs::write(files.certificate(), "no certificate").unwrap();
    assert!(matches!(fault(&files), CertificateError::NoCertificate(_)));
    std::fs::remove_file(files.key()).unwrap();
    assert!(fault(&files).is_key_error());
    std::fs::remove_file(files.certificate()).unwrap();
    assert!(!fault(&files).is_key_error());

    assert!(matches!(fault(&Files::until(2020)), CertificateError::Expired(_)));
    assert!(matches!(fault(&Files::good().renewed(2090, 2100)), CertificateError::NotYetValid(_)));
    let files = Files::good();
    std::fs::write(files.certificate(), "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
        .unwrap();
    assert!(matches!(fault(&files), CertificateError::Certificate(..)));
}

#[tokio::test]
async fn renewed_certificate_is_loaded_and_an_invalid_one_is_not() {
    let files = Files::good();
    let certificate = files.load().unwrap();
    let server = TestServer::with(1, ServerLimits::default(), Some(certificate.clone())).0;
    let mut before = files.connect(server.address, &[], &[&TLS13]).await.unwrap();
    assert!(!certificate.reload().unwrap());

    let files = files.renewed(2000, 2100);
    // The new files are not loaded yet, and the client trusts only the new certificate.
    assert!(files.connect(server.address, &[], &[&TLS13]).await.is_err());
    assert!(certificate.reload().unwrap());
    for _ in 0..2 {
        let mut socket = files.connect(server.address, &[], &[&TLS13]).await.unwrap();
        assert!(send_and_read(&mut socket, GET).await.contains("200 OK"));
        std::fs::write(files.certificate(), "torn").unwrap();
        // The same invalid file is reported once.
        assert!(!certificate.reload().unwrap_or_default());
    }
    assert!(send_and_read(&mut before, GET).await.contains("200 OK"));
}

#[tokio::test(start_paused = true)]
async fn changed_certificate_files_are_reloaded() {
    let files = Files::good();
    let certificate = files.load().unwrap();
    let watching = tokio::spawn(certificate.clone().watch());
    let _files = files.renewed(2000, 2100);
    tokio::time::sleep(Duration::from_secs(11)).await;
    watching.abort();
    // The watcher has loaded them.
    assert!(!certificate.reload().unwrap());
}

async fn new_deployment(files: &Files) -> TestDeployment {
    let mut deployment = TestDeployment::new(db::sqlite_location().await.unwrap()).await;
    deployment.set("server.tls_certificate", files.certificate().to_str().unwrap());
    deployment.set("server.tls_key", files.key().to_str().unwrap());
    deployment
}

#[tokio::test]
async fn server_uses_tls_and_forwards_the_scheme() {
    let mut upstream = Upstream::start().await;
    let files = Files::good();
    let deployment = new_deployment(&files).await;
    let toml = std::fs::read_to_string(deployment.path("sekisho.toml")).unwrap();
    let route = format!("[[routes]]\npath = \"/\"\nupstreams = [\"{}\"]\nauth = \"none\"\n", upstream.url());
    deployment.write("sekisho.toml", &format!("{toml}\n{route}"));
    let server: ServerProcess = deployment.serve().await;
    assert!(server.log().contains("origin=https://127.0.0.1:"), "{}", server.log());
    let socket = files.connect(server.public, &["h2"], &[&TLS13]).await.unwrap();
    let (mut client, connection) = h2::client::handshake::<_>(socket).await.unwrap();
    let client: &mut h2::client::SendRequest<Bytes> = &mut client;
    tokio::spawn(connection);
    for path in ["/forwarded", "/auth/session"] {
        let mut request = get_secured(path);
        request.headers_mut().append("cookie", "a=1".parse().unwrap());
        request.headers_mut().append("cookie", "b=2".parse().unwrap());
        let (_, headers, _) = ask(client, request).await.unwrap();
        assert_eq!(headers["strict-transport-security"], "max-age=31536000", "{path}");
    }
    let seen = upstream.seen().await;
    assert_eq!(seen.all("x-forwarded-proto"), ["https"]);
    assert_eq!(seen.all("x-forwarded-host"), [server.public.to_string()]);
    assert_eq!(seen.all("host"), ["app.example"]);
    assert_eq!(seen.all("cookie"), ["a=1; b=2"]);
    server.stop().await;
}

#[tokio::test]
async fn invalid_certificate_files_are_configuration_errors() {
    let files = Files::good();
    let deployment = new_deployment(&files).await;
    std::fs::copy(Files::good().key(), files.key()).unwrap();
    for command in ["serve", "check-config"] {
        let ran = deployment.run(&[command]).await;
        let message = ran.fails(78);
        assert!(
            message.starts_with("server.tls_key = \"") && message.contains("from SEKISHO_SERVER__TLS_KEY"),
            "{message}"
        );
        assert!(message.contains("does not match the certificate"), "{message}");
    }
    let expired = Files::until(2020);
    let expired_deployment = TestDeployment::new(db::sqlite_location().await.unwrap()).await;
    let (certificate, key) = (expired.certificate(), expired.key());
    let toml = std::fs::read_to_string(expired_deployment.path("sekisho.toml")).unwrap();
    let tls =
        format!("[server]\ntls_certificate = \"{}\"\ntls_key = \"{}\"", certificate.display(), key.display());
    expired_deployment.write("sekisho.toml", &toml.replacen("[server]", &tls, 1));
    let ran = expired_deployment.run(&["check-config"]).await;
    let message = ran.fails(78);
    assert!(message.contains("server.tls_certificate") && message.contains("line 3"), "{message}");
    assert!(message.contains("has expired"), "{message}");
}
