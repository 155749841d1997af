//! Against sockets that answer by a script, good and bad.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

/// Answers each connection with the bytes that `answer` makes of its number, `HERE` replaced by the address; an empty
/// answer keeps the connection open and silent.
async fn server(answer: impl Fn(usize) -> String + Send + Sync + 'static) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let count = Arc::new(AtomicUsize::new(0));
    let (here, counter) = (address.clone(), count.clone());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = answer(counter.fetch_add(1, Ordering::SeqCst)).replace("HERE", &here);
            tokio::spawn(async move {
                let mut head = vec![0; 4096];
                let _ = stream.read(&mut head).await;
                if answer.is_empty() {
                    pending::<()>().await;
                }
                let _ = stream.write_all(answer.as_bytes()).await;
            });
        }
    });
    (address, count)
}

fn url(address: &str) -> Uri {
    format!("http://{address}/keys?x=1").parse().unwrap()
}

fn fetcher() -> Fetcher {
    Fetcher::new(None).unwrap()
}

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn redirect(to: &str) -> String {
    format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n")
}

async fn get(answer: impl Fn(usize) -> String + Send + Sync + 'static) -> Result<Fetched, FetchError> {
    let (address, _) = server(answer).await;
    fetcher().get(&url(&address), HeaderMap::new()).await
}

#[tokio::test]
async fn gives_a_whole_answer_whatever_its_status() {
    let fetched = get(|_| ok("{}")).await.unwrap().ok().unwrap();
    assert_eq!(&*fetched.body, b"{}");
    let fetched = get(|_| "HTTP/1.1 500 No\r\nContent-Length: 2\r\n\r\nno".to_owned()).await.unwrap();
    assert_eq!((fetched.status.as_u16(), &*fetched.body), (500, &b"no"[..]));
    assert!(matches!(fetched.ok(), Err(FetchError::Status(status)) if status.as_u16() == 500));
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n";
    assert_eq!(&*get(move |_| chunked.to_owned()).await.unwrap().body, b"abc");
}

#[tokio::test]
async fn a_get_follows_redirects_on_its_own_host_alone() {
    let follow = |to: &'static str| get(move |n| if n == 0 { redirect(to) } else { ok("there") });
    assert_eq!(&*follow("/elsewhere").await.unwrap().body, b"there");
    assert_eq!(&*follow("http://HERE/elsewhere#part").await.unwrap().body, b"there");
    assert_eq!(&*follow("//HERE/elsewhere").await.unwrap().body, b"there");
    for to in ["http://127.0.0.1:1/", "http://localhost/", "ftp://HERE/", "elsewhere", "http://u@HERE/", ":"]
    {
        let error = follow(to).await.unwrap_err();
        assert!(matches!(error, FetchError::Redirect(_) | FetchError::Address(_)), "{to}: {error}");
    }
    let (address, count) = server(|_| redirect("/again")).await;
    let error = fetcher().get(&url(&address), HeaderMap::new()).await.unwrap_err();
    assert!(matches!(error, FetchError::Redirect(_)), "{error}");
    assert_eq!(count.load(Ordering::SeqCst), REDIRECTS_MAX + 1);
}

#[test]
fn a_redirect_may_go_from_http_to_https_and_never_back() {
    let to = |from: &str, to: &str| {
        let headers = HeaderMap::from_iter([(LOCATION, HeaderValue::from_str(to).unwrap())]);
        next_url(&from.parse().unwrap(), &headers).map(|url| url.to_string()).ok()
    };
    assert_eq!(to("http://a/x", "https://A/y").as_deref(), Some("https://A/y"));
    assert_eq!(to("http://a:8080/x", "https://a:8443/y").as_deref(), Some("https://a:8443/y"));
    assert_eq!(to("https://a/x", "https://a:443/y").as_deref(), Some("https://a:443/y"));
    assert_eq!(to("https://a/x", "http://a/y"), None);
    assert_eq!(to("https://a/x", "http://a:443/y"), None);
    assert_eq!(to("https://a/x", "https://b/y"), None);
    assert_eq!(to("https://a/x", "https://a.b/y"), None);
}

#[tokio::test]
async fn a_post_is_answered_and_never_redirected() {
    let (address, count) = server(|_| redirect("/elsewhere")).await;
    let fetched = fetcher().post(&url(&address), HeaderMap::new(), Bytes::from_static(b"a=b")).await.unwrap();
    assert_eq!((fetched.status.as_u16(), count.load(Ordering::SeqCst)), (302, 1));
}

#[tokio::test]
async fn an_answer_that_is_too_large_broken_coded_or_no_http_is_none() {
    let large = format!("HTTP/1.1 200 OK\r\nContent-Length: 1048577\r\n\r\n{}", "x".repeat(1_048_577));
    assert!(matches!(get(move |_| large.clone()).await, Err(FetchError::TooLarge(1_048_576))));
    let short = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc";
    assert!(matches!(get(move |_| short.to_owned()).await, Err(FetchError::Http(_))));
    let coded = "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 1\r\n\r\nx";
    assert!(matches!(get(move |_| coded.to_owned()).await, Err(FetchError::ContentCoding)));
    assert!(matches!(get(|_| "SSH-2.0-x\r\n".to_owned()).await, Err(FetchError::Http(_))));
    let head = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "y".repeat(2 * HEAD_BYTES_MAX));
    assert!(matches!(get(move |_| head.clone()).await, Err(FetchError::Http(_))));
}

#[tokio::test]
async fn nobody_keeps_us_waiting() {
    let (address, _) = server(|_| String::new()).await;
    let limits = Limits { total: Duration::from_millis(50), ..Limits::default() };
    let error = fetcher().with_limits(limits).get(&url(&address), HeaderMap::new()).await.unwrap_err();
    assert!(matches!(error, FetchError::Timeout(_)), "{error}");
    // A handshake that is never answered.
    let limits = Limits { connect: Duration::from_millis(50), ..Limits::default() };
    let url = format!("https://{address}/").parse().unwrap();
    let error = fetcher().with_limits(limits).get(&url, HeaderMap::new()).await.unwrap_err();
    assert!(matches!(error, FetchError::ConnectTimeout(_)), "{error}");
}

#[tokio::test]
async fn addresses_that_nobody_meant_are_refused() {
    for bad in ["ftp://a/", "/path", "http://user:secret@a/", "a:80"] {
        let error = fetcher().get(&bad.parse().unwrap(), HeaderMap::new()).await.unwrap_err();
        assert!(matches!(error, FetchError::Address(_)), "{bad}: {error}");
        assert!(!error.to_string().contains("secret"));
    }
    let place = connect::Place::of(&"https://[::1]/".parse().unwrap()).unwrap();
    assert_eq!((&*place.host, place.port, place.tls), ("::1", 443, true));
}

#[test]
fn extra_authorities_must_be_some() {
    assert!(matches!(Fetcher::new(Some(b"nothing")), Err(RootsError::Empty)));
    let bad = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    assert!(matches!(Fetcher::new(Some(bad)), Err(RootsError::Certificate(_))));
}

/// A TLS server with a certificate of its own authority, whose PEM is given as well.
async fn tls_server(name: &str) -> (u16, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new([name.to_owned()]).unwrap().self_signed(&key).unwrap();
    let private = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], private)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(ok("secure").as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    });
    (port, certificate.pem())
}

#[tokio::test]
async fn https_needs_a_trusted_certificate_for_the_very_host() {
    let (port, pem) = tls_server("127.0.0.1").await;
    let url: Uri = format!("https://127.0.0.1:{port}/").parse().unwrap();
    let trusting = Fetcher::new(Some(pem.as_bytes())).unwrap();
    assert_eq!(&*trusting.get(&url, HeaderMap::new()).await.unwrap().body, b"secure");
    let error = fetcher().get(&url, HeaderMap::new()).await.unwrap_err();
    assert!(matches!(error, FetchError::Tls(_)), "{error}");

    let (port, pem) = tls_server("other.example").await;
    let url: Uri = format!("https://127.0.0.1:{port}/").parse().unwrap();
    let trusting = Fetcher::new(Some(pem.as_bytes())).unwrap();
    let error = trusting.get(&url, HeaderMap::new()).await.unwrap_err();
    assert!(matches!(error, FetchError::Tls(_)), "{error}");
}
