//! The kit itself: a test that trusts a broken client, upstream or signature shows nothing.

use std::io::Write as _;

use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde_json::{Value, json};

use crate::support::jwt::{Key, claims, claims_of, header_of};
use crate::support::upstream::receive;
use crate::support::{Call, Connection, Upstream};

#[test]
fn the_client_and_the_echo_upstream_agree_on_every_byte() {
    let upstream = Upstream::echo();
    let answer = Call::new(upstream.address(), "PUT", "/a%2fb?c=%zz")
        .header("X-B", "1")
        .body("text/plain", "héllo")
        .send();
    let echo = answer.expect(200).json();
    assert_eq!(echo["line"], "PUT /a%2fb?c=%zz HTTP/1.1");
    assert_eq!(echo["body"], "héllo");
    let names: Vec<&str> =
        echo["headers"].as_array().unwrap().iter().map(|pair| pair[0].as_str().unwrap()).collect();
    assert_eq!(names, ["Host", "X-B", "Content-Type", "Content-Length"]);

    let mut connection = Connection::open(upstream.address());
    connection.send(
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nX-T: 1\r\n\r\n",
    );
    connection.send("HEAD /2 HTTP/1.1\r\n\r\nGET /3 HTTP/1.1\r\n\r\n");
    let echo = connection.answer("POST").json();
    assert_eq!((&echo["body"], &echo["trailers"]), (&json!("abcde"), &json!(["X-T: 1"])));
    assert!(connection.answer("HEAD").body.is_empty());
    assert_eq!(connection.answer("GET").json()["line"], "GET /3 HTTP/1.1");
    assert!(connection.rest().is_empty());
    assert_eq!((upstream.received().len(), upstream.connections()), (4, 2));
}

#[test]
fn the_client_knows_a_whole_answer_from_a_broken_one() {
    for (bytes, body, complete) in [
        ("Content-Length: 5\r\n\r\nwhole", "whole", true),
        ("Content-Length: 6\r\n\r\nbroke", "broke", false),
        ("Transfer-Encoding: chunked\r\n\r\n5\r\nwhole\r\n0\r\n\r\n", "whole", true),
        ("Transfer-Encoding: chunked\r\n\r\n5\r\nbroke\r\n", "broke", false),
        ("Transfer-Encoding: chunked\r\n\r\n5\r\nbroke\r\n0\r\n", "broke", false),
        ("Transfer-Encoding: chunked\r\n\r\n9\r\nbroke", "broke", false),
        ("\r\nto the end", "to the end", true),
    ] {
        let upstream = Upstream::raw(move |mut stream, _| {
            receive(&mut stream, &mut Vec::new());
            stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n").unwrap();
            stream.write_all(bytes.as_bytes()).unwrap();
        });
        let call = Call::new(upstream.address(), "GET", "/");
        let answer = call.send();
        assert_eq!((answer.text().as_str(), answer.complete), (body, complete), "{bytes:?}");
        assert_eq!(answer.interim, [100]);
    }
    // Where the other side may die at any moment, only a whole answer counts.
    for (bytes, whole) in
        [("Content-Length: 5\r\n\r\nwhole", true), ("Content-Length: 6\r\n\r\nbroke", false), ("", false)]
    {
        let upstream = Upstream::raw(move |mut stream, _| {
            receive(&mut stream, &mut Vec::new());
            stream.write_all(format!("HTTP/1.1 200 OK\r\n{bytes}").as_bytes()).unwrap();
        });
        assert_eq!(Call::new(upstream.address(), "GET", "/").try_send().is_some(), whole, "{bytes:?}");
    }
    assert!(Call::new(Upstream::nobody(), "GET", "/").try_send().is_none());
}

#[test]
fn hand_made_tokens_are_what_a_library_takes_them_for() {
    let keys = [
        Key::secret("s"),
        Key::Hs512(vec![7; 64]),
        Key::es256(),
        Key::es384(),
        Key::rs256(),
        Key::ps256(),
        Key::eddsa(),
    ];
    for key in keys {
        let token =
            key.token_with(&json!({ "kid": "k-1" }), &claims("t-1", &json!({ "aud": "api", "iat": null })));
        assert_eq!(header_of(&token), json!({ "alg": key.alg(), "typ": "JWT", "kid": "k-1" }));
        assert_eq!(claims_of(&token).get("iat"), None);
        let algorithm: Algorithm = key.alg().parse().unwrap();
        let jwk: Jwk = serde_json::from_value(key.jwk(Some("k-1"))).unwrap();
        let pem = || key.public_pem().into_bytes();
        let from_file = match key {
            Key::Hs256(_) | Key::Hs512(_) => DecodingKey::from_secret(key.secret_bytes()),
            Key::Es256(_) | Key::Es384(_) => DecodingKey::from_ec_pem(&pem()).unwrap(),
            Key::Rs256(_) | Key::Ps256(_) => DecodingKey::from_rsa_pem(&pem()).unwrap(),
            Key::EdDsa(_) => DecodingKey::from_ed_pem(&pem()).unwrap(),
            Key::None => unreachable!("not in the list"),
        };
        for decoding in [from_file, DecodingKey::from_jwk(&jwk).unwrap()] {
            let mut validation = Validation::new(algorithm);
            validation.set_audience(&["api"]);
            let decoded = jsonwebtoken::decode::<Value>(&token, &decoding, &validation).unwrap();
            assert_eq!(decoded.claims["jti"], "t-1");
            let broken = format!("{}AAAA", &token[..token.len() - 4]);
            assert!(jsonwebtoken::decode::<Value>(&broken, &decoding, &validation).is_err(), "{}", key.alg());
        }
    }
}
