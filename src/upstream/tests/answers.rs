//! Answers of every kind: passed on as they are, or refused.

use super::*;

#[tokio::test]
async fn an_answer_that_ends_early_is_an_error_and_no_end() {
    for answer in [
        "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf",
        "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n9\r\nhalf",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n0\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nhalf\r\n0\r\n\r\n",
    ] {
        let upstream = Scripted::once(answer).await;
        let upstreams = one(&upstream);
        let exchange = upstreams.send(Call::default(), get()).await.unwrap();
        assert!(exchange.response.into_body().collect().await.is_err(), "{answer}");
        eventually("closed", || target(&upstreams).connections == 0).await;
        assert_eq!(target(&upstreams).in_flight, 0);
    }
}

#[tokio::test]
async fn what_is_not_one_clear_answer_is_refused() {
    let long = "a".repeat(70_000);
    for answer in [
        "garbage\r\n\r\n".to_owned(),
        "SSH-2.0-OpenSSH_9.2\r\n".to_owned(),
        "HTTP/1.1 20\r\n\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\ncontent-le".to_owned(),
        "HTTP/2.0 200 OK\r\n\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok".to_owned(),
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\nok".to_owned(),
        "HTTP/1.1 200 OK\r\ncontent-length: 2, 2\r\n\r\nok".to_owned(),
        "HTTP/1.1 200 OK\r\ncontent-length: +2\r\n\r\nok".to_owned(),
        "HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\nok".to_owned(),
        "HTTP/1.1 200 OK\r\ncontent-length: \r\n\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n\r\nok".to_owned(),
        "HTTP/1.1 304 x\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"
            .to_owned(),
        "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\nx : y\r\n\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\nx: y\r\n folded\r\n\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\nx: a\0b\r\n\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\nx: a\rb\r\n\r\n".to_owned(),
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\n\r\n".to_owned(),
        format!("HTTP/1.1 200 OK\r\nx: {long}\r\n\r\n"),
        format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: y\r\n".repeat(201)),
        "HTTP/1.1 100 Continue\r\n\r\n".repeat(500),
        format!("HTTP/1.1 103 Early Hints\r\nlink: {}\r\n\r\n", "a".repeat(40_000)).repeat(2),
    ] {
        let shown = &answer[..answer.len().min(90)];
        let upstream = Scripted::once(answer.clone()).await;
        let upstreams = one(&upstream);
        match upstreams.send(Call::default(), get()).await {
            Err(error) => assert_eq!(error.code(), Code::UpstreamProtocolError, "{shown:?}: {error:?}"),
            Ok(exchange) => panic!("{shown:?} passed: {exchange:?}"),
        }
        eventually("closed", || target(&upstreams).connections == 0).await;
    }
}

#[tokio::test]
async fn a_large_head_passes_within_the_limits() {
    let lines: String = (0..98).map(|number| format!("x-{number}: {}\r\n", "a".repeat(600))).collect();
    let upstream = Scripted::always(format!("HTTP/1.1 200 OK\r\n{lines}content-length: 2\r\n\r\nok")).await;
    let upstreams = one(&upstream);
    for _ in 0..2 {
        assert_eq!(text(&upstreams, get()).await.unwrap(), "ok");
    }
}

#[tokio::test]
async fn an_upstream_that_speaks_first_is_not_an_http_server() {
    let upstream = Scripted::new(|_, mut stream| async move {
        let _ = stream.write_all(b"220 mail.example ESMTP\r\n").await;
        reads_until_end(&mut stream).await;
    })
    .await;
    assert_eq!(code(&one(&upstream), get()).await, Code::UpstreamProtocolError);
}

#[tokio::test]
async fn informational_answers_without_end_are_refused() {
    let upstream = Scripted::new(|_, mut stream| async move {
        head(&mut stream).await;
        while stream.write_all(b"HTTP/1.1 102 Processing\r\n\r\n").await.is_ok() {}
    })
    .await;
    let error = one(&upstream).send(Call::default(), get()).await.unwrap_err();
    let informational = matches!(error, SendError::Protocol { fault: Fault::Informational, .. });
    assert!(informational, "{error:?}");
}

#[tokio::test]
async fn informational_answers_are_passed_over() {
    let upstream = Scripted::always(format!("HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n{OK}")).await;
    let upstreams = one(&upstream);
    for _ in 0..3 {
        assert_eq!(text(&upstreams, get()).await.unwrap(), "ok");
    }
}

#[tokio::test]
async fn bytes_after_the_answer_end_the_connection() {
    let poison = "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison";
    for answer in [
        format!("{OK}{poison}"),
        format!("HTTP/1.1 204 No Content\r\n\r\n{poison}"),
        format!("HTTP/1.1 204 No Content\r\ncontent-length: 6\r\n\r\n{poison}"),
        format!("HTTP/1.1 304 Not Modified\r\ncontent-length: 6\r\n\r\n{poison}"),
        format!("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n{poison}"),
        format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n{poison}"),
    ] {
        let upstream = Scripted::always(answer.clone()).await;
        let upstreams = one(&upstream);
        for _ in 0..3 {
            let served = text(&upstreams, get()).await.unwrap();
            assert_ne!(served, "poison", "{answer:?}");
        }
        eventually("closed", || target(&upstreams).connections == 0).await;
        assert_eq!(upstream.accepted(), 3, "{answer:?}");
    }
}

#[tokio::test]
async fn bytes_on_an_idle_connection_end_it() {
    let (sender, mut streams) = mpsc::channel(4);
    let upstream = Scripted::new(move |_, mut stream| {
        let sender = sender.clone();
        async move {
            head(&mut stream).await;
            stream.write_all(OK.as_bytes()).await.unwrap();
            sender.send(stream).await.unwrap();
        }
    })
    .await;
    let upstreams = one(&upstream);
    text(&upstreams, get()).await.unwrap();
    let mut stream = streams.recv().await.unwrap();
    assert_eq!(target(&upstreams).connections, 1);
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison").await.unwrap();
    eventually("closed", || target(&upstreams).connections == 0).await;
    assert_eq!(text(&upstreams, get()).await.unwrap(), "ok");
}

#[tokio::test]
async fn head_and_204_and_304_have_no_body_and_keep_their_connection() {
    for (method, answer) in [
        (Method::HEAD, "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n"),
        (Method::HEAD, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"),
        (Method::GET, "HTTP/1.1 304 Not Modified\r\ncontent-length: 1000\r\n\r\n"),
        (Method::GET, "HTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n"),
    ] {
        let upstream = Scripted::always(answer).await;
        let upstreams = one(&upstream);
        for _ in 0..2 {
            let mut request = get();
            *request.method_mut() = method.clone();
            let exchange = upstreams.send(Call::default(), request).await.unwrap();
            let length =
                exchange.response.headers().get("content-length").map(|value| value.to_str().unwrap());
            assert_eq!(length, answer.contains("1000").then_some("1000"));
            assert!(http_body::Body::is_end_stream(exchange.response.body()));
            eventually("idle", || target(&upstreams).idle_connections == 1).await;
        }
        assert_eq!(upstream.accepted(), 1);
    }
}

#[tokio::test]
async fn trailers_come_through_and_the_connection_stays() {
    let answer = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-sum: 1\r\n\r\n";
    let upstream = Scripted::always(answer).await;
    let upstreams = one(&upstream);
    let exchange = upstreams.send(Call::default(), get()).await.unwrap();
    let body = exchange.response.into_body().collect().await.unwrap();
    assert_eq!(body.trailers().unwrap()["x-sum"], "1");
    eventually("idle", || target(&upstreams).idle_connections == 1).await;
}

#[tokio::test]
async fn a_body_in_which_nothing_moves_ends_in_an_error() {
    for answer in [
        "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    ] {
        let upstream = Scripted::always(answer).await;
        let limit = Some(Duration::from_millis(50));
        let upstreams = start(Settings { stream_idle_timeout: limit, ..settings(&[upstream.address]) });
        let exchange = upstreams.send(Call::default(), get()).await.unwrap();
        let mut body = exchange.response.into_body();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "half");
        let error = body.frame().await.unwrap().unwrap_err();
        assert!(matches!(error.downcast_ref(), Some(BodyError::Idle(_))), "{error:?}");
        assert!(body.frame().await.is_none());
        eventually("closed", || target(&upstreams).connections == 0).await;
    }
}

#[tokio::test]
async fn a_body_in_which_something_moves_goes_on() {
    let upstream = Scripted::new(|_, mut stream| async move {
        head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\n").await.unwrap();
        for _ in 0..8 {
            tokio::time::sleep(Duration::from_millis(60)).await;
            stream.write_all(b"x").await.unwrap();
        }
        reads_until_end(&mut stream).await;
    })
    .await;
    let limit = Some(Duration::from_millis(300));
    let upstreams = start(Settings { stream_idle_timeout: limit, ..settings(&[upstream.address]) });
    assert_eq!(text(&upstreams, get()).await.unwrap(), "xxxxxxxx");
}

#[tokio::test]
async fn a_large_body_streams_whole() {
    let large = "0123456789abcdef".repeat(1 << 16);
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{large}", large.len());
    let upstream = Scripted::always(answer).await;
    let upstreams = one(&upstream);
    for _ in 0..2 {
        assert_eq!(text(&upstreams, get()).await.unwrap(), large);
        eventually("idle", || target(&upstreams).idle_connections == 1).await;
    }
}
