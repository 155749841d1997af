//! HTML that cannot be broken into: whatever is put into a template is escaped, unless it is [`Html`] itself.

use std::borrow::Cow;
use std::fmt;

use serde_json::Value;

/// A piece of a page.
#[derive(Clone, Debug, Default)]
pub(super) struct Html(pub(super) String);

impl fmt::Display for Html {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromIterator<Html> for Html {
    fn from_iter<I: IntoIterator<Item = Html>>(pieces: I) -> Self {
        Self(pieces.into_iter().map(|piece| piece.0).collect())
    }
}

/// What can stand in a template.
pub(super) trait Piece {
    /// As it stands in the page.
    fn put(&self) -> Cow<'_, str>;
}

impl Piece for Html {
    fn put(&self) -> Cow<'_, str> {
        Cow::Borrowed(&self.0)
    }
}

impl Piece for str {
    fn put(&self) -> Cow<'_, str> {
        if !self.contains(['&', '<', '>', '"', '\'']) {
            return Cow::Borrowed(self);
        }
        let mut text = String::with_capacity(self.len() + 16);
        for c in self.chars() {
            match c {
                '&' => text.push_str("&amp;"),
                '<' => text.push_str("&lt;"),
                '>' => text.push_str("&gt;"),
                '"' => text.push_str("&quot;"),
                '\'' => text.push_str("&#39;"),
                c => text.push(c),
            }
        }
        Cow::Owned(text)
    }
}

impl Piece for String {
    fn put(&self) -> Cow<'_, str> {
        self.as_str().put()
    }
}

/// Of an answer of the API: a string as it is, nothing as a dash.
impl Piece for Value {
    fn put(&self) -> Cow<'_, str> {
        match self {
            Value::Null => Cow::Borrowed("–"),
            Value::String(text) if text.is_empty() => Cow::Borrowed("–"),
            Value::String(text) => text.put(),
            Value::Array(items) => {
                items.iter().map(|item| item.put().into_owned()).collect::<Vec<_>>().join(", ").into()
            }
            other => Cow::Owned(other.to_string().put().into_owned()),
        }
    }
}

impl Piece for usize {
    fn put(&self) -> Cow<'_, str> {
        Cow::Owned(self.to_string())
    }
}

impl<T: Piece + ?Sized> Piece for &T {
    fn put(&self) -> Cow<'_, str> {
        (**self).put()
    }
}

/// A template, whose `{}` are filled in. Names within the braces do not compile: they would not be escaped.
macro_rules! html {
    ($template:literal $(, $piece:expr)* $(,)?) => {
        $crate::admin::pages::html::Html(
            format!(concat!($template) $(, $crate::admin::pages::html::Piece::put(&$piece))*)
        )
    };
}
pub(super) use html;

/// A table with this head; `empty` in place of one without rows.
pub(super) fn table(caption: &str, head: &[&str], rows: Vec<Vec<Html>>, empty: &str) -> Html {
    if rows.is_empty() {
        return html!("<p class=\"empty\">{}</p>", empty);
    }
    let head: Html = head.iter().map(|name| html!("<th scope=\"col\">{}</th>", name)).collect();
    let row = |cells: Vec<Html>| {
        let cells: Html = cells.into_iter().map(|cell| html!("<td>{}</td>", cell)).collect();
        html!("<tr>{}</tr>", cells)
    };
    let rows: Html = rows.into_iter().map(row).collect();
    html!(
        "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"{}\"><table><thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>",
        caption,
        head,
        rows
    )
}

/// A word in a coloured pill.
pub(super) fn badge(kind: &str, word: &str) -> Html {
    html!("<span class=\"badge {}\">{}</span>", kind, word)
}

/// A time of an answer, shorter and exact on demand.
pub(super) fn when(value: &Value) -> Html {
    match value.as_str() {
        None => html!("–"),
        Some(text) => {
            let short = text.get(..19).unwrap_or(text).replace('T', " ");
            html!("<time datetime=\"{}\" title=\"{}\">{}</time>", text, text, short)
        }
    }
}

/// With thin spaces between thousands.
pub(super) fn grouped(number: f64) -> String {
    let digits = format!("{number:.0}");
    let first = digits.len() % 3;
    let mut text = digits[..first].to_owned();
    for at in (first..digits.len()).step_by(3) {
        if !text.is_empty() {
            text.push('\u{202f}');
        }
        text.push_str(&digits[at..at + 3]);
    }
    text
}

/// Bytes in the unit that fits.
pub(super) fn size(bytes: f64) -> String {
    let units = [(1024.0_f64 * 1024.0 * 1024.0, "GiB"), (1024.0 * 1024.0, "MiB"), (1024.0, "KiB")];
    let unit = units.into_iter().find(|(unit, _)| bytes >= *unit);
    unit.map_or_else(|| format!("{bytes:.0} B"), |(unit, name)| format!("{:.1} {name}", bytes / unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_gets_into_a_page_unescaped_but_html() {
        let bold = html!("<b>{}</b>", "<script>'\"&");
        assert_eq!(bold.0, "<b>&lt;script&gt;&#39;&quot;&amp;</b>");
        assert_eq!(html!("{}", bold).0, bold.0);
        let value = serde_json::json!({ "<": ["<", null, 1] });
        assert!(!html!("{}{}", value, value["<"]).0.contains('<'));
        assert_eq!(html!("{}", Value::Null).0, "–");
    }

    #[test]
    fn numbers_are_told_for_people() {
        assert_eq!(grouped(1_234_567.0), "1\u{202f}234\u{202f}567");
        assert_eq!((grouped(0.0), grouped(999.0)), ("0".to_owned(), "999".to_owned()));
        assert_eq!((size(512.0), size(1536.0)), ("512 B".to_owned(), "1.5 KiB".to_owned()));
    }
}
