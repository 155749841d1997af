//! Size, parts, base64url, header.

use super::*;

#[test]
fn refuses_what_is_not_three_parts() {
    let bench = Bench::new();
    for text in ["", ".", "a", "a.b", "a.b.c.d", "a.b.c.d.e"] {
        assert_eq!(bench.verify(text).unwrap_err(), VerifyError::Parts, "{text:?}");
    }
    for text in ["..", ".e30.", "e30..", "e30.."] {
        assert!(
            matches!(bench.verify(text).unwrap_err(), VerifyError::Json(_, JsonError::Syntax)),
            "{text:?}"
        );
    }
}

#[test]
fn refuses_a_token_over_the_limit_before_reading_it() {
    let bench = Bench::new();
    let fill = |length: usize| {
        let claims = json!({ "iss": ISS, "sub": "7", "exp": NOW.secs() + 600, "pad": "p".repeat(length) });
        bench.sign(&bench.header(), &claims)
    };
    assert!(bench.verify(&fill(5000)).is_ok());
    assert_eq!(bench.verify(&fill(6200)).unwrap_err(), VerifyError::TooLong);
    assert_eq!(bench.verify(&".".repeat(8193)).unwrap_err(), VerifyError::TooLong);
}

#[test]
fn refuses_respelled_base64url_in_every_part() {
    let bench = Bench::new();
    let text = bench.sign(&bench.header(), &good());
    let parts: Vec<&str> = text.split('.').collect();
    for (place, part) in [Part::Header, Part::Claims, Part::Signature].into_iter().enumerate() {
        for spelling in ["=", "==", "\n", " ", "+", "/", "%3D"] {
            let mut parts: Vec<String> = parts.iter().map(|part| (*part).to_owned()).collect();
            parts[place].push_str(spelling);
            assert_eq!(
                bench.verify(&parts.join(".")).unwrap_err(),
                VerifyError::Encoding(part),
                "{spelling:?}"
            );
        }
    }
    // 64 bytes of signature leave four spare bits in the last character.
    let (rest, last) = text.split_at(text.len() - 1);
    assert!("AQgw".contains(last), "the library wrote spare bits");
    let respelled = format!("{rest}{}", char::from(last.as_bytes()[0] + 1));
    assert_eq!(bench.verify(&respelled).unwrap_err(), VerifyError::Encoding(Part::Signature));
}

#[test]
fn refuses_a_header_or_claim_given_twice_escapes_decoded() {
    let bench = Bench::new();
    let (header, claims) = (bench.header().to_string(), good().to_string());
    let with = |object: &str, member: &str| format!("{},{member}}}", object.strip_suffix('}').unwrap());
    for member in [r#""alg":"ES256""#, r#""\u0061lg":"none""#, r#""kid":"x""#, r#""jwk":{"a":1,"a":2}"#] {
        let text = bench.sign_text(&with(&header, member), &claims);
        assert_eq!(
            bench.verify(&text).unwrap_err(),
            VerifyError::Json(Part::Header, JsonError::Duplicate),
            "{member}"
        );
    }
    for member in [r#""sub":"7""#, r#""\u0073ub":"1""#, r#""e\u0078p":9999999999"#, r#""a":[{"b":1,"b":1}]"#]
    {
        let text = bench.sign_text(&header, &with(&claims, member));
        assert_eq!(
            bench.verify(&text).unwrap_err(),
            VerifyError::Json(Part::Claims, JsonError::Duplicate),
            "{member}"
        );
    }
    let deep = with(&claims, &format!("\"deep\":{}{}", "[".repeat(32), "]".repeat(32)));
    let text = bench.sign_text(&header, &deep);
    assert_eq!(bench.verify(&text).unwrap_err(), VerifyError::Json(Part::Claims, JsonError::TooDeep));
    let text = bench.sign_text(&header, &format!("{claims}{claims}"));
    assert_eq!(bench.verify(&text).unwrap_err(), VerifyError::Json(Part::Claims, JsonError::Syntax));
    let text = bench.sign_text("[]", &claims);
    assert_eq!(bench.verify(&text).unwrap_err(), VerifyError::Json(Part::Header, JsonError::NotAnObject));
}

#[test]
fn refuses_extensions_and_headers_of_the_wrong_type() {
    let bench = Bench::new();
    let check = |name: &str, value: Value| {
        let mut header = bench.header();
        header[name] = value;
        bench.check_header(&header).map(|_| ())
    };
    for value in [json!([]), json!(["exp"]), json!(["b64"]), json!(null)] {
        assert_eq!(check("crit", value), Err(VerifyError::Extension));
    }
    assert_eq!(check("b64", json!(false)), Err(VerifyError::Extension));
    assert_eq!(check("b64", json!(true)), Err(VerifyError::Extension));
    for (name, value) in [
        ("alg", json!(null)),
        ("alg", json!(1)),
        ("alg", json!(["ES256"])),
        ("kid", json!(1)),
        ("kid", json!(null)),
        ("kid", json!([bench.key.id()])),
        ("kid", json!("")),
        ("kid", json!("a\nb")),
        ("kid", json!("k".repeat(256))),
        ("typ", json!(1)),
        ("typ", json!(null)),
    ] {
        let unusable = ["alg", "kid", "typ"].into_iter().find(|one| *one == name).unwrap();
        assert_eq!(check(name, value.clone()), Err(VerifyError::Header(unusable)), "{name}: {value}");
    }
    assert_eq!(
        bench.check_header(&json!({ "kid": bench.key.id() })).unwrap_err(),
        VerifyError::Header("alg")
    );
}

#[test]
fn typ_is_compared_as_a_media_type() {
    let mut bench = Bench::new();
    let check = |bench: &Bench, typ: &str| {
        let mut header = bench.header();
        header["typ"] = typ.into();
        bench.check_header(&header).map(|_| ())
    };
    for typ in ["JWT", "at+jwt", "application/at+jwt", "anything", "", "x/logout+jwt"] {
        assert_eq!(check(&bench, typ), Ok(()), "{typ}");
    }
    for typ in [
        "logout+jwt",
        "secevent+jwt",
        "dpop+jwt",
        "LOGOUT+JWT",
        "application/dpop+jwt",
        "Application/SecEvent+JWT",
    ] {
        assert_eq!(check(&bench, typ), Err(VerifyError::Typ), "{typ}");
    }
    bench.terms.typ = Typ::Listed(names(&["at+jwt", "dpop+jwt"]));
    for typ in ["at+jwt", "AT+JWT", "application/at+jwt", "APPLICATION/AT+JWT"] {
        assert_eq!(check(&bench, typ), Ok(()), "{typ}");
    }
    for typ in ["JWT", "", "at+jwt ", "application/application/at+jwt", "x/at+jwt", "dpop+jwt"] {
        assert_eq!(check(&bench, typ), Err(VerifyError::Typ), "{typ}");
    }
    assert_eq!(bench.check_header(&bench.header()).unwrap_err(), VerifyError::Typ);
}

#[test]
fn tells_of_each_step_in_order_and_of_the_one_that_failed() {
    let bench = Bench::new();
    let mut steps: Vec<(Step, String)> = Vec::new();
    let text = bench.sign(&bench.header(), &good());
    verify(&text, TOKEN_BYTES_MAX, |_| Some(&bench.terms), NOW, &mut steps).unwrap();
    let order: Vec<Step> = steps.iter().map(|(step, _)| *step).collect();
    let mut sorted = order.clone();
    sorted.sort();
    sorted.dedup();
    assert_eq!(order, sorted);
    assert_eq!(order.len(), 11);
    assert!(steps.iter().all(|(_, detail)| text.split('.').all(|part| !detail.contains(part))));

    let mut steps: Vec<(Step, String)> = Vec::new();
    let refused = verify(&text, TOKEN_BYTES_MAX, |_| None, NOW, &mut steps).unwrap_err();
    assert_eq!((steps.last().unwrap().0, refused.step()), (Step::Header, Step::Issuer));

    let forged = Bench::new().sign(&bench.header(), &good());
    let unknown = bench.sign(&json!({ "alg": "ES256", "typ": "at+jwt", "kid": "nobody" }), &good());
    for (text, last, failed) in [(forged, Step::Key, Step::Signature), (unknown, Step::Typ, Step::Key)] {
        let mut steps: Vec<(Step, String)> = Vec::new();
        let refused = verify(&text, TOKEN_BYTES_MAX, |_| Some(&bench.terms), NOW, &mut steps).unwrap_err();
        assert_eq!((steps.last().unwrap().0, refused.step()), (last, failed));
    }
}
