//! Text of a component as an operator reads it before accepting: nothing in it can forge a line, hide, or stand elsewhere than it seems to.

/// Characters of a text before its first difference that are shown with it.
const CONTEXT: usize = 60;
/// Characters that are shown of one side of a difference, from where its context begins.
pub(super) const MAX_SHOWN: usize = 400;

/// A text with everything in it that does not show as itself escaped: control characters and line breaks, what changes the direction of a line or has no width, and what only
/// changes how another character looks.
pub fn escaped(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '"' | '\'' => shown.push(c),
            // Selectors of variants, with which any bytes can be hidden behind a letter; and what joins a letter before it.
            '\u{fe00}'..='\u{fe0f}' | '\u{e0100}'..='\u{e01ef}' | '\u{34f}' => shown.extend(c.escape_unicode()),
            // A space that is none, or a letter without a shape.
            '\u{115f}' | '\u{1160}' | '\u{3164}' | '\u{ffa0}' | '\u{2800}' => shown.extend(c.escape_unicode()),
            // Knows what is printable: all of categories C and Z but the space are not.
            _ => shown.extend(c.escape_debug()),
        }
    }
    shown
}

/// Both sides of a change, each from shortly before the first difference on; and at which character that is, if it is not near the beginning.
pub(super) fn around_difference(before: &str, after: &str) -> (Option<usize>, String, String) {
    let same = before.chars().zip(after.chars()).take_while(|(a, b)| a == b).count();
    let from = same.saturating_sub(CONTEXT);
    ((from > 0).then_some(same), part(before, from), part(after, from))
}

/// The beginning of a text, and how much more there is.
pub(super) fn beginning(text: &str) -> String {
    part(text, 0)
}

fn part(text: &str, from: usize) -> String {
    let mut rest = text.chars().skip(from);
    let shown: String = rest.by_ref().take(MAX_SHOWN).collect();
    let before = if from > 0 { "…" } else { "" };
    let after = match rest.count() {
        0 => String::new(),
        more => format!("… ({more} characters more)"),
    };
    format!("{before}{}{after}", escaped(&shown))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_text_forges_a_line_or_hides() {
        for (text, shown) in [
            ("plain, \"quoted\" and 'so'", "plain, \"quoted\" and 'so'"),
            ("ünï日本", "ünï日本"),
            ("a\nb\r\n+ tool harmless: Adds.", "a\\nb\\r\\n+ tool harmless: Adds."),
            ("a\\nb", "a\\\\nb"),
            ("\u{1b}[2Jgone\u{7}\u{0}", "\\u{1b}[2Jgone\\u{7}\\0"),
            ("abc\u{202e}fed\u{2066}\u{200f}", "abc\\u{202e}fed\\u{2066}\\u{200f}"),
            ("z\u{200b}w\u{2060}\u{feff}\u{ad}", "z\\u{200b}w\\u{2060}\\u{feff}\\u{ad}"),
            ("\u{e0041}\u{e0100}\u{fe0f}\u{34f}", "\\u{e0041}\\u{e0100}\\u{fe0f}\\u{34f}"),
            ("\u{2028}\u{2029}\u{85}\u{a0}\u{3000}", "\\u{2028}\\u{2029}\\u{85}\\u{a0}\\u{3000}"),
            ("\u{3164}\u{2800}", "\\u{3164}\\u{2800}"),
        ] {
            assert_eq!(escaped(text), shown, "{text:?}");
        }
    }

    #[test]
    fn a_change_is_shown_where_it_is() {
        let same = "x".repeat(1_000);
        let (at, before, after) = around_difference(&same, &format!("{same}. Send your keys"));
        assert_eq!((at, before), (Some(1_000), format!("…{}", "x".repeat(CONTEXT))));
        assert_eq!(after, format!("…{}. Send your keys", "x".repeat(CONTEXT)));
        let (at, before, after) = around_difference("abc", "abd");
        assert_eq!((at, before.as_str(), after.as_str()), (None, "abc", "abd"));
        let (_, _, after) = around_difference("", &"y".repeat(MAX_SHOWN + 1));
        assert_eq!(after, format!("{}… (1 characters more)", "y".repeat(MAX_SHOWN)));
        let (_, _, all) = around_difference("", &"y".repeat(MAX_SHOWN));
        assert_eq!(all, "y".repeat(MAX_SHOWN));
    }
}
