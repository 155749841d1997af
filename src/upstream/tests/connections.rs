//! What a connection serves, when it is kept, and when it ends.

use super::*;

#[tokio::test]
async fn one_connection_serves_request_after_request() {
    let upstream = Scripted::always(OK).await;
    let upstreams = one(&upstream);
    for round in 0..5 {
        let exchange = upstreams.send(Call::default(), get()).await.unwrap();
        assert_eq!(exchange.served.reused, round > 0);
        assert_eq!(exchange.served.connect.is_some(), round == 0);
        assert_eq!(*exchange.served.target, *format!("http://{}", upstream.address));
        assert_eq!(exchange.response.into_body().collect().await.unwrap().to_bytes(), "ok");
        eventually("the connection is idle", || target(&upstreams).idle_connections == 1).await;
    }
    assert_eq!(upstream.accepted(), 1);
    let report = target(&upstreams);
    assert_eq!((report.in_flight, report.connections, report.requests_total), (0, 1, 5));
}

#[tokio::test]
async fn a_connection_serves_one_request_at_a_time() {
    let upstream = Scripted::always("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nok").await;
    let upstreams = one(&upstream);
    let first = upstreams.send(Call::default(), get()).await.unwrap();
    let second = upstreams.send(Call::default(), get()).await.unwrap();
    assert_eq!(upstream.accepted(), 2);
    assert_eq!(target(&upstreams).in_flight, 2);
    drop((first, second));
    eventually("both are closed", || target(&upstreams).connections == 0).await;
    assert_eq!(target(&upstreams).in_flight, 0);
}

#[tokio::test]
async fn the_request_goes_out_in_origin_form_with_nothing_added() {
    let (sender, mut heads) = mpsc::channel(1);
    let upstream = Scripted::new(move |_, mut stream| {
        let sender = sender.clone();
        async move {
            while let Some(head) = head(&mut stream).await {
                sender.send(head).await.unwrap();
                stream.write_all(OK.as_bytes()).await.unwrap();
            }
        }
    })
    .await;
    let upstreams = one(&upstream);
    let mut request = get();
    *request.uri_mut() = "http://client.example:99/x%20y?q=1".parse().unwrap();
    *request.version_mut() = http::Version::HTTP_10;
    text(&upstreams, request).await.unwrap();
    assert_eq!(heads.recv().await.unwrap(), "GET /x%20y?q=1 HTTP/1.1\r\nhost: api.example\r\n\r\n");
    let mut request = get();
    request.headers_mut().clear();
    text(&upstreams, request).await.unwrap();
    let expected = format!("GET /a?b HTTP/1.1\r\nhost: {}\r\n\r\n", upstream.address);
    assert_eq!(heads.recv().await.unwrap(), expected);
}

#[tokio::test]
async fn a_get_with_a_body_of_unknown_length_keeps_it() {
    let (sender, mut bodies) = mpsc::channel(1);
    let upstream = Scripted::new(move |_, mut stream| {
        let sender = sender.clone();
        async move {
            let head = head(&mut stream).await.unwrap();
            let mut body = [0; 22];
            stream.read_exact(&mut body).await.unwrap();
            stream.write_all(OK.as_bytes()).await.unwrap();
            sender.send((head, body)).await.unwrap();
        }
    })
    .await;
    let upstreams = one(&upstream);
    let (chunks, body) = streaming();
    let request = get().map(|_| body);
    let sending = async {
        chunks.send(chunk("abc")).await.unwrap();
        chunks.send(chunk("defg")).await.unwrap();
        drop(chunks);
    };
    let (answer, ()) = tokio::join!(text(&upstreams, request), sending);
    assert_eq!(answer.unwrap(), "ok");
    let (head, body) = bodies.recv().await.unwrap();
    assert!(head.contains("transfer-encoding: chunked\r\n"), "{head}");
    assert_eq!(&body, b"3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n");
}

#[tokio::test]
async fn a_dead_idle_connection_is_not_used() {
    let upstream = Scripted::new(|_, mut stream| async move {
        head(&mut stream).await;
        stream.write_all(OK.as_bytes()).await.unwrap();
    })
    .await;
    let upstreams = one(&upstream);
    for _ in 0..3 {
        assert_eq!(text(&upstreams, post(Body::full("x"))).await.unwrap(), "ok");
        eventually("its end is noticed", || target(&upstreams).connections == 0).await;
    }
    assert_eq!(upstream.accepted(), 3);
    assert_eq!(target(&upstreams).failures_total, 0);
}

#[tokio::test]
async fn a_name_is_resolved() {
    let upstream = Scripted::always(OK).await;
    let mut settings = settings(&[upstream.address]);
    settings.targets[0].authority = format!("localhost:{}", upstream.address.port()).parse().unwrap();
    assert_eq!(text(&start(settings), get()).await.unwrap(), "ok");
}

#[tokio::test]
async fn a_connection_that_is_to_close_is_not_kept() {
    for answer in [
        "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok",
        "HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok",
        "HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 2\r\n\r\nok",
    ] {
        let upstream = Scripted::always(answer).await;
        let upstreams = one(&upstream);
        assert_eq!(text(&upstreams, get()).await.unwrap(), "ok");
        eventually("closed", || target(&upstreams).connections == 0).await;
    }
    let upstream = Scripted::once("HTTP/1.1 200 OK\r\n\r\nto the end").await;
    assert_eq!(text(&one(&upstream), get()).await.unwrap(), "to the end");
}

#[tokio::test]
async fn idle_connections_age_and_have_a_limit() {
    let upstream = Scripted::always(OK).await;
    let keep = Duration::from_millis(50);
    let upstreams = start(Settings { keepalive_idle: keep, ..settings(&[upstream.address]) });
    text(&upstreams, get()).await.unwrap();
    eventually("closed for its age", || target(&upstreams).connections == 0).await;
    let upstreams = start(Settings { keepalive_max_idle: 2, ..settings(&[upstream.address]) });
    let call = || upstreams.send(Call::default(), get());
    let (a, b, c) = tokio::join!(call(), call(), call());
    drop((a.unwrap(), b.unwrap(), c.unwrap()));
    eventually("the surplus is closed", || target(&upstreams).connections == 2).await;
}

#[tokio::test]
async fn a_full_upstream_answers_so_and_recovers() {
    let upstream = Scripted::always("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nok").await;
    let upstreams = start(Settings { max_requests: Some(1), ..settings(&[upstream.address]) });
    let under_way = upstreams.send(Call::default(), get()).await.unwrap();
    for _ in 0..3 {
        assert_eq!(code(&upstreams, get()).await, Code::Overloaded);
    }
    drop(under_way);
    let next = upstreams.send(Call::default(), get()).await.unwrap();
    drop(next);
    // What fails gives its place back too.
    let upstreams = start(Settings { max_requests: Some(1), ..settings(&[refusing().await]) });
    for _ in 0..3 {
        assert_eq!(code(&upstreams, get()).await, Code::UpstreamUnreachable);
    }
}

#[tokio::test]
async fn a_client_that_goes_away_takes_its_request_along() {
    let (sender, mut ended) = mpsc::channel(4);
    let upstream = Scripted::new(move |_, mut stream| {
        let sender = sender.clone();
        async move {
            let request = head(&mut stream).await.unwrap();
            if request.contains("x-answer") {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf").await;
            }
            let _ = sender.send("begun").await;
            reads_until_end(&mut stream).await;
            let _ = sender.send("ended").await;
        }
    })
    .await;
    let upstreams = one(&upstream);
    // Before the head.
    let waiting = tokio::spawn({
        let upstreams = Arc::clone(&upstreams);
        async move { upstreams.send(Call::default(), get()).await.map(drop) }
    });
    assert_eq!(ended.recv().await, Some("begun"));
    waiting.abort();
    assert_eq!(ended.recv().await, Some("ended"));
    // Within the body.
    let mut request = get();
    request.headers_mut().insert("x-answer", "1".parse().unwrap());
    let exchange = upstreams.send(Call::default(), request).await.unwrap();
    assert_eq!(ended.recv().await, Some("begun"));
    drop(exchange);
    assert_eq!(ended.recv().await, Some("ended"));
    eventually("nothing is left", || target(&upstreams).connections == 0).await;
    assert_eq!(target(&upstreams).in_flight, 0);
}

#[tokio::test]
async fn an_upgrade_that_was_asked_for_is_handed_over() {
    let upstream = Scripted::new(|_, mut stream| async move {
        head(&mut stream).await;
        let answer =
            b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nhi";
        stream.write_all(answer).await.unwrap();
        let mut echo = [0; 2];
        stream.read_exact(&mut echo).await.unwrap();
        stream.write_all(&echo).await.unwrap();
    })
    .await;
    let upstreams = one(&upstream);
    let mut request = get();
    request.headers_mut().insert("connection", "upgrade".parse().unwrap());
    request.headers_mut().insert("upgrade", "websocket".parse().unwrap());
    request.headers_mut().insert("sec-websocket-key", "k".parse().unwrap());
    let exchange = upstreams.send(Call::default(), request).await.unwrap();
    assert_eq!(exchange.response.status(), StatusCode::SWITCHING_PROTOCOLS);
    let mut tunnel = exchange.tunnel.unwrap();
    let mut bytes = [0; 2];
    tunnel.read_exact(&mut bytes).await.unwrap();
    assert_eq!(&bytes, b"hi");
    tunnel.write_all(b"yo").await.unwrap();
    tunnel.read_exact(&mut bytes).await.unwrap();
    assert_eq!(&bytes, b"yo");
}

#[tokio::test]
async fn a_reload_takes_unchanged_upstreams_over_with_their_connections() {
    let upstream = Scripted::always(OK).await;
    let same = settings(&[upstream.address]);
    let other = Settings { name: "other".into(), ..same.clone() };
    let upstreams = Upstreams::new(&[same.clone(), other.clone()], &Handle::current(), 1);
    text(&upstreams, get()).await.unwrap();
    eventually("idle", || target(&upstreams).idle_connections == 1).await;
    let next = upstreams.rebuild(&[Settings { retries: 2, ..other }, same]);
    drop(upstreams);
    let report = next.report();
    assert_eq!((&*report[0].name, report[0].targets[0].idle_connections), ("other", 0));
    assert_eq!((&*report[1].name, report[1].targets[0].idle_connections), ("legacy", 1));
    let exchange = next.send(Call { upstream: 1, ..Call::default() }, get()).await.unwrap();
    assert!(exchange.served.reused);
}

#[tokio::test]
async fn what_is_under_way_outlives_its_upstreams_and_leaves_nothing() {
    let (sender, mut streams) = mpsc::channel(1);
    let upstream = Scripted::new(move |_, mut stream| {
        let sender = sender.clone();
        async move {
            head(&mut stream).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nha").await.unwrap();
            sender.send(stream).await.unwrap();
        }
    })
    .await;
    let upstreams = one(&upstream);
    let exchange = upstreams.send(Call::default(), get()).await.unwrap();
    let mut stream = streams.recv().await.unwrap();
    let another = upstreams.send(Call::default(), get()).await.unwrap();
    drop(upstreams);
    stream.write_all(b"lf").await.unwrap();
    assert_eq!(exchange.response.into_body().collect().await.unwrap().to_bytes(), "half");
    let end = tokio::time::timeout(Duration::from_secs(5), stream.read(&mut [0; 1])).await;
    assert_eq!(end.expect("the connection is closed, not pooled").unwrap_or(0), 0);
    drop(another);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_requests_at_once_on_many_threads_share_few_connections() {
    let upstream = Scripted::always(OK).await;
    let mut settings = settings(&[upstream.address]);
    settings.balance = Balance::TwoChoices;
    let upstreams = start(Settings { max_requests: Some(8), ..settings });
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let upstreams = Arc::clone(&upstreams);
            tokio::spawn(async move {
                for _ in 0..200 {
                    assert_eq!(text(&upstreams, get()).await.unwrap(), "ok");
                }
            })
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
    let report = target(&upstreams);
    assert_eq!((report.in_flight, report.requests_total, report.failures_total), (0, 1600, 0));
    assert!(report.connects_total < 200, "{report:?}");
}

#[tokio::test]
async fn an_unknown_upstream_is_our_fault() {
    let upstreams = Upstreams::new(&[], &Handle::current(), 1);
    assert_eq!(code(&upstreams, get()).await, Code::Internal);
}
