//! Targets and bodies that fail: what is sent again, what is not, and who is blamed.

use super::super::wire::Wire;
use super::*;

/// Serves one request on the first connection and leaves the second unanswered, closing; serves the rest.
async fn stale() -> Scripted {
    Scripted::new(|number, mut stream| async move {
        head(&mut stream).await;
        stream.write_all(OK.as_bytes()).await.unwrap();
        if number == 0 {
            head(&mut stream).await;
        } else {
            reads_until_end(&mut stream).await;
        }
    })
    .await
}

#[tokio::test]
async fn an_idempotent_request_survives_a_stale_connection() {
    for method in [Method::GET, Method::PUT, Method::DELETE] {
        let upstream = stale().await;
        let upstreams = one(&upstream);
        text(&upstreams, get()).await.unwrap();
        eventually("idle", || target(&upstreams).idle_connections == 1).await;
        let mut request = get();
        *request.method_mut() = method;
        let exchange = upstreams.send(Call::default(), request).await.unwrap();
        assert!(!exchange.served.reused);
        assert_eq!((upstream.accepted(), target(&upstreams).failures_total), (2, 0));
    }
}

#[tokio::test]
async fn whatever_a_dying_connection_did_not_take_goes_on_to_a_new_one() {
    let upstream = Scripted::always(OK).await;
    let (chunks, unfinished) = streaming();
    for request in [get(), post(Body::full("x")), post(unfinished)] {
        let upstreams = start(Settings { retries: 0, ..settings(&[upstream.address]) });
        for _ in 0..3 {
            let (wire, far) = Wire::by_hand();
            upstreams.list[0].targets[0].pool.put(wire);
            drop(far);
        }
        assert!(!upstreams.send(Call::default(), request).await.unwrap().served.reused);
        assert_eq!(target(&upstreams).failures_total, 0);
    }
    drop(chunks);
}

#[tokio::test]
async fn what_may_not_be_repeated_is_not() {
    let (_chunks, unfinished) = streaming();
    let mut put = post(Body::full("x"));
    *put.method_mut() = Method::PUT;
    for request in [post(Body::empty()), post(Body::full("x")), put, post(unfinished)] {
        let upstream = stale().await;
        let upstreams = one(&upstream);
        text(&upstreams, get()).await.unwrap();
        eventually("idle", || target(&upstreams).idle_connections == 1).await;
        assert_eq!(code(&upstreams, request).await, Code::UpstreamUnreachable);
        assert_eq!(upstream.accepted(), 1);
    }
    // Nor is anything when there are to be no retries.
    let upstream = stale().await;
    let upstreams = start(Settings { retries: 0, ..settings(&[upstream.address]) });
    text(&upstreams, get()).await.unwrap();
    eventually("idle", || target(&upstreams).idle_connections == 1).await;
    assert_eq!(code(&upstreams, get()).await, Code::UpstreamUnreachable);
}

#[tokio::test]
async fn a_get_on_a_new_connection_is_not_repeated() {
    let upstream = Scripted::once("").await;
    assert_eq!(code(&one(&upstream), get()).await, Code::UpstreamUnreachable);
    assert_eq!(upstream.accepted(), 1);
}

#[tokio::test]
async fn a_refused_connection_is_unreachable() {
    let upstreams = start(settings(&[refusing().await]));
    let error = upstreams.send(Call::default(), get()).await.unwrap_err();
    assert_eq!(error.code(), Code::UpstreamUnreachable);
    assert!(error.target().unwrap().starts_with("http://127.0.0.1:"));
    assert_eq!(target(&upstreams).connections, 0);
}

#[tokio::test]
async fn a_name_that_does_not_resolve_is_unreachable() {
    let mut settings = settings(&[]);
    settings.targets = vec![Target {
        url: "http://nowhere.invalid".into(),
        authority: "nowhere.invalid:80".parse().unwrap(),
        unix: None,
        tls: None,
        http2: false,
        weight: 1,
    }];
    assert_eq!(code(&start(settings), get()).await, Code::UpstreamUnreachable);
}

/// A listener whose queue is full: the kernel drops every further SYN.
fn black_hole() -> (socket2::Socket, Vec<socket2::Socket>, SocketAddr) {
    let new = || socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let listener = new();
    listener.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap();
    let waiting = (0..4)
        .map(|_| {
            let socket = new();
            socket.set_nonblocking(true).unwrap();
            let _ = socket.connect(&address);
            socket
        })
        .collect();
    (listener, waiting, address.as_socket().unwrap())
}

#[tokio::test]
async fn a_black_hole_is_a_timeout() {
    let (_listener, _waiting, address) = black_hole();
    let upstreams = start(Settings { connect_timeout: Duration::from_millis(100), ..settings(&[address]) });
    let error = upstreams.send(Call::default(), get()).await.unwrap_err();
    assert!(matches!(error, SendError::ConnectTimeout { .. }), "{error:?}");
    assert_eq!(error.code(), Code::UpstreamTimeout);
}

#[tokio::test]
async fn another_target_takes_what_one_did_not() {
    let upstream = Scripted::always(OK).await;
    let (_listener, _waiting, hole) = black_hole();
    for bad in [refusing().await, hole] {
        let settings = settings(&[bad, upstream.address]);
        let upstreams = start(Settings { connect_timeout: Duration::from_millis(100), ..settings });
        // A body is no obstacle: no byte of it was taken.
        for request in [get(), post(Body::full("x")), get(), post(streaming().1)] {
            let exchange = upstreams.send(Call::default(), request).await.unwrap();
            assert_eq!(*exchange.served.target, *format!("http://{}", upstream.address));
        }
    }
}

#[tokio::test]
async fn retries_are_bounded() {
    let upstream = Scripted::always(OK).await;
    let bad = [refusing().await, refusing().await, refusing().await];
    for (retries, attempts) in [(0, 1), (1, 2), (2, 3), (9, 3)] {
        let upstreams = start(Settings { retries, ..settings(&bad) });
        assert_eq!(code(&upstreams, get()).await, Code::UpstreamUnreachable);
        let made: u64 = upstreams.report()[0].targets.iter().map(|target| target.requests_total).sum();
        assert_eq!(made, attempts, "{retries} retries");
    }
    let upstreams = start(Settings { retries: 2, ..settings(&[bad[0], bad[1], upstream.address]) });
    for _ in 0..3 {
        assert_eq!(text(&upstreams, get()).await.unwrap(), "ok");
    }
}

#[tokio::test]
async fn a_slow_head_is_a_timeout_and_its_connection_is_closed() {
    let upstream = Scripted::new(|_, mut stream| async move {
        head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\n").await.unwrap();
        reads_until_end(&mut stream).await;
    })
    .await;
    let limit = Some(Duration::from_millis(50));
    let upstreams = start(Settings { response_timeout: limit, ..settings(&[upstream.address]) });
    let error = upstreams.send(Call::default(), get()).await.unwrap_err();
    assert!(matches!(error, SendError::ResponseTimeout { .. }), "{error:?}");
    eventually("closed", || target(&upstreams).connections == 0).await;
    // The route's own limit takes its place.
    let upstreams = start(settings(&[upstream.address]));
    let call = Call { timeout: limit, ..Call::default() };
    assert_eq!(upstreams.send(call, get()).await.unwrap_err().code(), Code::UpstreamTimeout);
    assert_eq!(upstream.accepted(), 2, "a timeout is not retried");
}

#[tokio::test]
async fn the_response_timeout_does_not_count_the_clients_pauses() {
    let upstream = Scripted::new(|_, mut stream| async move {
        head(&mut stream).await;
        let mut body = [0; 17];
        stream.read_exact(&mut body).await.unwrap();
        stream.write_all(OK.as_bytes()).await.unwrap();
        reads_until_end(&mut stream).await;
    })
    .await;
    let limit = Some(Duration::from_millis(100));
    let upstreams = start(Settings { response_timeout: limit, ..settings(&[upstream.address]) });
    let (chunks, body) = streaming();
    let sending = async {
        chunks.send(chunk("a")).await.unwrap();
        tokio::time::sleep(Duration::from_millis(400)).await;
        chunks.send(chunk("b")).await.unwrap();
        drop(chunks);
    };
    let (answer, ()) = tokio::join!(text(&upstreams, post(body)), sending);
    assert_eq!(answer.unwrap(), "ok");
    // But an upstream that is silent once it has everything is too slow.
    let request = post(Body::full("x"));
    assert_eq!(code(&upstreams, request).await, Code::UpstreamTimeout);
}

#[tokio::test]
async fn the_error_of_a_request_body_is_the_callers() {
    let upstream = Scripted::new(|_, mut stream| async move {
        reads_until_end(&mut stream).await;
    })
    .await;
    let upstreams = one(&upstream);
    let (chunks, body) = streaming();
    let sending = async {
        chunks.send(chunk("abc")).await.unwrap();
        chunks.send(Err("over the limit".into())).await.unwrap();
    };
    let (answer, ()) = tokio::join!(upstreams.send(Call::default(), post(body)), sending);
    let error = answer.unwrap_err();
    assert!(
        matches!(&error, SendError::RequestBody(cause) if cause.to_string() == "over the limit"),
        "{error:?}"
    );
    eventually("closed", || target(&upstreams).connections == 0).await;
    assert_eq!(target(&upstreams).failures_total, 0, "the target is not to blame");
}

#[tokio::test]
async fn a_body_shorter_than_announced_is_the_callers() {
    let upstream = Scripted::new(|_, mut stream| async move {
        reads_until_end(&mut stream).await;
    })
    .await;
    let (chunks, body) = streaming();
    let mut request = post(body);
    request.headers_mut().insert("content-length", "10".parse().unwrap());
    let sending = async {
        chunks.send(chunk("abc")).await.unwrap();
        drop(chunks);
    };
    let upstreams = one(&upstream);
    let (answer, ()) = tokio::join!(upstreams.send(Call::default(), request), sending);
    assert!(matches!(answer.unwrap_err(), SendError::RequestBody(_)));
}

#[tokio::test]
async fn an_early_answer_is_passed_on_and_its_connection_closed() {
    let upstream = Scripted::always("HTTP/1.1 413 x\r\ncontent-length: 2\r\n\r\nno").await;
    let upstreams = one(&upstream);
    let (chunks, body) = streaming();
    let exchange = upstreams.send(Call::default(), post(body)).await.unwrap();
    assert_eq!(exchange.response.status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(exchange.response.into_body().collect().await.unwrap().to_bytes(), "no");
    eventually("closed", || target(&upstreams).connections == 0).await;
    eventually("the rest of the upload is let go", || chunks.is_closed()).await;
}

#[tokio::test]
async fn an_upload_goes_on_behind_an_early_answer_that_nobody_reads_yet() {
    let (sender, mut received) = mpsc::channel(1);
    let upstream = Scripted::new(move |_, mut stream| {
        let sender = sender.clone();
        async move {
            head(&mut stream).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n").await.unwrap();
            let mut bytes = Vec::new();
            while !bytes.ends_with(b"0\r\n\r\n") {
                bytes.push(stream.read_u8().await.unwrap());
            }
            sender.send(bytes).await.unwrap();
            stream.write_all(b"done").await.unwrap();
        }
    })
    .await;
    let upstreams = one(&upstream);
    let (chunks, body) = streaming();
    let exchange = upstreams.send(Call::default(), post(body)).await.unwrap();
    for text in ["abc", "defg"] {
        chunks.send(chunk(text)).await.unwrap();
    }
    drop(chunks);
    assert_eq!(received.recv().await.unwrap(), b"3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n");
    assert_eq!(exchange.response.into_body().collect().await.unwrap().to_bytes(), "done");
    eventually("closed", || target(&upstreams).connections == 0).await;
}

#[tokio::test]
async fn an_upload_that_fails_behind_an_early_answer_breaks_it() {
    let upstream = Scripted::new(|_, mut stream| async move {
        head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n").await.unwrap();
        reads_until_end(&mut stream).await;
    })
    .await;
    let upstreams = one(&upstream);
    let (chunks, body) = streaming();
    let exchange = upstreams.send(Call::default(), post(body)).await.unwrap();
    chunks.send(Err("too slow".into())).await.unwrap();
    assert!(exchange.response.into_body().collect().await.is_err());
    eventually("closed", || target(&upstreams).connections == 0).await;
}
