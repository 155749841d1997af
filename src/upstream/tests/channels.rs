//! Connections that many requests share.

use http::Response as Answer;

use super::*;

/// Answers every request on every connection over HTTP/2.
async fn over_http2() -> Scripted {
    Scripted::new(|_, stream| async move {
        let Ok(mut connection) = h2::server::handshake(stream).await else { return };
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            let mut body = respond.send_response(Answer::new(()), false).unwrap();
            let _ = body.send_data(Bytes::from_static(b"ok"), true);
        }
    })
    .await
}

fn by_http2(address: SocketAddr, limit: Duration) -> Arc<Upstreams> {
    let mut settings = settings(&[address]);
    settings.targets[0].http2 = true;
    settings.connect_timeout = limit;
    start(settings)
}

/// What becomes of so many requests that come at once, by their answer or the code of the failure.
async fn burst(upstreams: &Arc<Upstreams>, count: usize) -> Vec<Result<String, Code>> {
    let tasks: Vec<_> = (0..count)
        .map(|_| {
            let upstreams = Arc::clone(upstreams);
            tokio::spawn(async move { text(&upstreams, get()).await.map_err(|error| error.code()) })
        })
        .collect();
    let mut outcomes = Vec::with_capacity(count);
    for task in tasks {
        outcomes.push(task.await.unwrap());
    }
    outcomes
}

#[tokio::test]
async fn a_burst_waits_together_for_few_connections() {
    const MANY: usize = 2_000;
    let upstream = over_http2().await;
    let upstreams = by_http2(upstream.address, Duration::from_secs(5));
    let outcomes = burst(&upstreams, MANY).await;
    assert!(outcomes.iter().all(|outcome| outcome.as_deref() == Ok("ok")), "{outcomes:?}");
    // A target that has not said how many it takes at once is taken for one that takes a hundred.
    assert!(upstream.accepted() <= MANY / 100 + 1, "{} connections", upstream.accepted());
}

#[tokio::test]
async fn all_who_wait_for_a_connection_that_does_not_come_about_are_told() {
    let upstreams = by_http2(refusing().await, Duration::from_secs(5));
    let outcomes = burst(&upstreams, 500).await;
    assert!(outcomes.iter().all(|outcome| *outcome == Err(Code::UpstreamUnreachable)), "{outcomes:?}");
}

#[tokio::test]
async fn whoever_leaves_while_it_opens_a_connection_leaves_that_to_the_next() {
    let upstream = over_http2().await;
    let upstreams = by_http2(upstream.address, Duration::from_secs(5));
    for _ in 0..50 {
        let leaving = Arc::clone(&upstreams);
        let leaving = tokio::spawn(async move { text(&leaving, get()).await.is_ok() });
        tokio::task::yield_now().await;
        leaving.abort();
        assert_eq!(text(&upstreams, get()).await.unwrap(), "ok");
        upstreams.list[0].targets[0].channels.as_ref().unwrap().close_idle();
    }
}

/// A connection on which nothing comes back is asked, and given up when that is not answered either.
#[tokio::test]
async fn a_target_that_does_not_answer_pings_is_given_up() {
    let (tell, mut told) = mpsc::channel(64);
    let tell = std::sync::Mutex::new(Some(tell));
    let upstream = Scripted::new(move |_, mut stream| {
        let tell = tell.lock().unwrap().take().expect("one connection");
        async move {
            stream.write_all(b"\0\0\0\x04\0\0\0\0\0").await.unwrap();
            let mut bytes = vec![0; 4096];
            while let Ok(count @ 1..) = stream.read(&mut bytes).await {
                tell.send(bytes[..count].to_vec()).await.unwrap();
            }
        }
    })
    .await;
    let mut settings = settings(&[upstream.address]);
    settings.targets[0].http2 = true;
    settings.response_timeout = Some(Duration::from_secs(600));
    let upstreams = start(settings);
    let asked = tokio::spawn(async move { text(&upstreams, get()).await.map_err(|error| error.code()) });
    let mut seen = Vec::new();
    // The preface and SETTINGS, then the head of the request.
    while !seen.windows(4).any(|frame| frame[0] == 1 && frame[1] & 4 == 4 && frame[2..] == [0, 0]) {
        seen.extend(told.recv().await.unwrap());
    }
    let mut pings = 0;
    let patience = Duration::from_secs(20);
    while let Some(bytes) = tokio::time::timeout(patience, told.recv()).await.expect("it is given up") {
        pings += usize::from(bytes.starts_with(b"\0\0\x08\x06\0\0\0\0\0"));
    }
    assert_eq!((asked.await.unwrap(), pings), (Err(Code::UpstreamUnreachable), 1));
}
