//! URI templates (RFC 6570), as far as the host needs them: it finds the component that has a resource. The component itself reads the variables.
//!
//! A `{name}` stands for one or more characters of one segment; an expression with an operator may stand for anything.

/// The longest template, in bytes.
pub(super) const MAX_TEMPLATE_BYTES: usize = 512;
/// Most expressions of a template.
const MAX_EXPRESSIONS: usize = 8;

/// A template that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct UriTemplate {
    parts: Vec<TemplatePart>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum TemplatePart {
    Literal(String),
    /// One or more characters of one segment.
    Segment,
    /// Anything, or nothing.
    Any,
}

impl UriTemplate {
    /// Reads a template; the error says what is wrong with it.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if text.len() > MAX_TEMPLATE_BYTES {
            return Err(format!("it is longer than {MAX_TEMPLATE_BYTES} bytes"));
        }
        let mut parts = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let literal = rest.find(['{', '}']).unwrap_or(rest.len());
            let (before, after) = rest.split_at(literal);
            if !before.is_empty() {
                parts.push(TemplatePart::Literal(before.to_owned()));
            }
            rest = match after.strip_prefix('{') {
                None if after.is_empty() => after,
                None => return Err("it has a `}` without a `{`".to_owned()),
                Some(inside) => {
                    let (expression, after) = inside.split_once('}').ok_or("it has a `{` without a `}`")?;
                    parts.push(read_expression(expression)?);
                    after
                }
            };
        }
        let expressions = parts.iter().filter(|part| !matches!(part, TemplatePart::Literal(_))).count();
        match expressions {
            0 => Err("it has no expression: a resource without variables belongs to the list".to_owned()),
            1..=MAX_EXPRESSIONS => Ok(Self { parts }),
            _ => Err(format!("it has more than {MAX_EXPRESSIONS} expressions")),
        }
    }

    /// Bytes of the literal with which it begins: of two templates that fit, the one with more is meant.
    pub(super) fn literal_bytes(&self) -> usize {
        match self.parts.first() {
            Some(TemplatePart::Literal(literal)) => literal.len(),
            _ => 0,
        }
    }

    /// Whether a URI is of this form. Takes at most parts × bytes steps.
    pub(super) fn matches(&self, uri: &str) -> bool {
        let bytes = uri.as_bytes();
        // The places of the URI up to which the parts so far fit.
        let mut reached = vec![false; bytes.len().saturating_add(1)];
        if let Some(first) = reached.first_mut() {
            *first = true;
        }
        for part in &self.parts {
            let mut next = vec![false; reached.len()];
            match part {
                TemplatePart::Literal(literal) => {
                    let starts = reached.iter().enumerate().filter(|(_, fits)| **fits).map(|(at, _)| at);
                    for start in starts {
                        let end = start.saturating_add(literal.len());
                        if bytes.get(start..end) == Some(literal.as_bytes())
                            && let Some(place) = next.get_mut(end)
                        {
                            *place = true;
                        }
                    }
                }
                TemplatePart::Segment => spread(&reached, &mut next, bytes, |byte| !matches!(byte, b'/' | b'?' | b'#')),
                TemplatePart::Any => {
                    spread(&reached, &mut next, bytes, |_| true);
                    next.iter_mut().zip(&reached).for_each(|(next, before)| *next |= before);
                }
            }
            if !next.contains(&true) {
                return false;
            }
            reached = next;
        }
        reached.last() == Some(&true)
    }
}

/// From each place that is reached, one or more bytes further that are all `legal`.
fn spread(reached: &[bool], next: &mut [bool], bytes: &[u8], legal: impl Fn(u8) -> bool) {
    let mut running = false;
    for ((fits, byte), place) in reached.iter().zip(bytes).zip(next.iter_mut().skip(1)) {
        running = (running || *fits) && legal(*byte);
        *place = running;
    }
}

fn read_expression(expression: &str) -> Result<TemplatePart, String> {
    let operator = expression.chars().next().filter(|c| "+#./;?&".contains(*c));
    let variables = operator.map_or(expression, |_| expression.get(1..).unwrap_or_default());
    for variable in variables.split(',') {
        let name = variable.trim_end_matches('*').split(':').next().unwrap_or_default();
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '%');
        if name.is_empty() || !name.chars().all(legal) {
            return Err(format!("`{{{expression}}}` names no variable"));
        }
    }
    Ok(if operator.is_some() || variables.contains(',') { TemplatePart::Any } else { TemplatePart::Segment })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_fits_the_uris_of_its_form() {
        for (template, uri, fits) in [
            ("notes://{id}", "notes://1", true),
            ("notes://{id}", "notes://", false),
            ("notes://{id}", "notes://1/2", false),
            ("test://template/{id}/data", "test://template/123/data", true),
            ("test://template/{id}/data", "test://template/1/2/data", false),
            ("test://template/{id}/data", "test://template/123/dat", false),
            ("a:{x}-{y}", "a:1-2-3", true),
            ("a:{x}-{y}", "a:-", false),
            ("file:///{+path}", "file:///a/b?c", true),
            ("s:all{?page,size}", "s:all", true),
            ("s:all{?page,size}", "s:all?page=1&size=2", true),
            ("s:{a}{b}", "s:x", false),
        ] {
            assert_eq!(UriTemplate::parse(template).expect(template).matches(uri), fits, "{template} {uri}");
        }
        for bad in ["notes://all", "a:{", "a:}", "a:{}", "a:{x y}", &format!("a:{}", "{x}".repeat(9))] {
            assert!(UriTemplate::parse(bad).is_err(), "{bad}");
        }
        assert!(UriTemplate::parse(&format!("a:{{x}}{}", "y".repeat(MAX_TEMPLATE_BYTES))).is_err());
    }
}
