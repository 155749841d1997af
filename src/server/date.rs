//! `Date` of answers (RFC 9110 §6.6.1): the same for a second, and long to write.

use std::cell::RefCell;

use http::HeaderValue;

use crate::clock::{Clock as _, SystemClock, UnixTime};

struct Last {
    second: u64,
    text: [u8; 29],
    value: Option<HeaderValue>,
}

thread_local! {
    static LAST: RefCell<Last> =
        const { RefCell::new(Last { second: u64::MAX, text: [0; 29], value: None }) };
}

fn last<T>(take: impl FnOnce(&mut Last) -> T) -> T {
    let second = SystemClock.now().secs();
    LAST.with_borrow_mut(|last| {
        if last.second != second {
            *last = Last { second, text: UnixTime::from_secs(second).http_date(), value: None };
        }
        take(last)
    })
}

/// Now, as it is written.
pub(super) fn text() -> [u8; 29] {
    last(|last| last.text)
}

/// Now, as the value of a field.
pub(super) fn value() -> HeaderValue {
    last(|last| {
        let text = &last.text;
        let make = || HeaderValue::from_bytes(text).expect("a date is visible ASCII");
        last.value.get_or_insert_with(make).clone()
    })
}
