//! Targets that go out of service and come back.

use super::*;

#[tokio::test]
async fn failures_eject_a_target_and_time_brings_it_back() {
    let upstream = Scripted::always(OK).await;
    let bad = refusing().await;
    let eject = Duration::from_millis(300);
    let passive_health = PassiveHealth { failures: 2, window: Duration::from_secs(60), eject };
    let upstreams = start(Settings { passive_health, ..settings(&[bad, upstream.address]) });
    let mut sent = 0;
    while target(&upstreams).state != TargetState::Ejected {
        text(&upstreams, get()).await.unwrap();
        sent += 1;
        assert!(sent < 20);
    }
    let failures = target(&upstreams).failures_total;
    assert_eq!((failures, target(&upstreams).ejections_total), (2, 1));
    for _ in 0..6 {
        text(&upstreams, get()).await.unwrap();
    }
    if target(&upstreams).state == TargetState::Ejected {
        assert_eq!(target(&upstreams).failures_total, failures, "it is passed over");
    }
    let listener = TcpListener::bind(bad).await.unwrap();
    let back = Scripted::on(listener, |_, mut stream| async move {
        while head(&mut stream).await.is_some() {
            stream.write_all(OK.as_bytes()).await.unwrap();
        }
    });
    eventually("it is back", || target(&upstreams).state == TargetState::Healthy).await;
    for _ in 0..4 {
        text(&upstreams, get()).await.unwrap();
    }
    assert!(back.accepted() > 0);
}

#[tokio::test]
async fn an_only_target_is_never_cut_off_by_its_failures() {
    let passive_health =
        PassiveHealth { failures: 1, window: Duration::from_secs(60), eject: Duration::from_secs(60) };
    let bad = refusing().await;
    let upstreams = start(Settings { passive_health, ..settings(&[bad]) });
    for _ in 0..3 {
        assert_eq!(code(&upstreams, get()).await, Code::UpstreamUnreachable);
    }
    assert_eq!(target(&upstreams).state, TargetState::Ejected);
    let listener = TcpListener::bind(bad).await.unwrap();
    let _back = Scripted::on(listener, |_, mut stream| async move {
        head(&mut stream).await;
        stream.write_all(OK.as_bytes()).await.unwrap();
    });
    assert_eq!(text(&upstreams, get()).await.unwrap(), "ok");
}

#[tokio::test]
async fn probes_take_a_target_out_and_bring_it_back() {
    let healthy = Arc::new(AtomicUsize::new(503));
    let status = Arc::clone(&healthy);
    let (sender, mut probes) = mpsc::channel(1);
    let upstream = Scripted::new(move |_, mut stream| {
        let (status, sender) = (Arc::clone(&status), sender.clone());
        async move {
            while let Some(head) = head(&mut stream).await {
                if head.starts_with("GET /health ") {
                    let _ = sender.try_send(head);
                    let status = status.load(Ordering::SeqCst);
                    let answer = format!("HTTP/1.1 {status} x\r\ncontent-length: 0\r\n\r\n");
                    let _ = stream.write_all(answer.as_bytes()).await;
                } else {
                    let _ = stream.write_all(OK.as_bytes()).await;
                }
            }
        }
    })
    .await;
    let health = Some(Health {
        path: "/health".into(),
        interval: Duration::from_millis(5),
        timeout: Duration::from_secs(5),
        unhealthy_after: 3,
        healthy_after: 2,
    });
    let upstreams = start(Settings { health, ..settings(&[upstream.address]) });
    eventually("out", || target(&upstreams).state == TargetState::Unhealthy).await;
    assert_eq!(code(&upstreams, get()).await, Code::NoHealthyTarget);
    let probe = probes.recv().await.unwrap();
    assert!(probe.contains(&format!("\r\nhost: {}\r\n", upstream.address)), "{probe}");
    healthy.store(302, Ordering::SeqCst);
    eventually("back", || target(&upstreams).state == TargetState::Healthy).await;
    assert_eq!(text(&upstreams, get()).await.unwrap(), "ok");
    let open = upstream.accepted();
    drop(upstreams);
    // Nobody probes any more: what was under way ends, and no connection follows.
    eventually("the scripts have all ended", || probes.try_recv().is_err()).await;
    assert!(upstream.accepted() <= open + 1);
}

#[tokio::test]
async fn a_target_that_probes_have_taken_out_gets_nothing() {
    let good = Scripted::always(OK).await;
    let health = Some(Health {
        path: "/".into(),
        interval: Duration::from_millis(5),
        timeout: Duration::from_secs(1),
        unhealthy_after: 1,
        healthy_after: 1,
    });
    for balance in [Balance::RoundRobin, Balance::LeastRequests, Balance::TwoChoices, Balance::HashSubject] {
        let settings = settings(&[refusing().await, good.address]);
        let upstreams = start(Settings { balance, health: health.clone(), retries: 0, ..settings });
        eventually("out", || target(&upstreams).state == TargetState::Unhealthy).await;
        for number in 0..20 {
            let call = Call { subject: Some(&format!("user-{number}")), ..Call::default() };
            drop(upstreams.send(call, get()).await.unwrap());
        }
    }
}
