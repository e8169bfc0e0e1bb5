//! Where the first error is that a compiler speaks of: so that an author sees it first, above the whole text.

use std::path::Path;

/// `FILE:LINE[:COLUMN]: MESSAGE` of the first error in a tool's output, where it names a file of the project.
pub(super) fn first_error(said: &str, folder: &Path) -> Option<String> {
    let lines: Vec<String> = said.lines().map(plain).collect();
    let at_error = lines.iter().position(|line| line.to_ascii_lowercase().contains("error"));
    if let Some(trace) = traceback(&lines, folder) {
        return Some(trace);
    }
    let rest = lines.get(at_error?..)?;
    let message = rest.first()?;
    let place = rest.iter().flat_map(|line| line.split([' ', '(', ')', '[', ']', '\'', '"', ',']));
    let place = place.map(|word| word.trim_end_matches(':')).find_map(|word| place_in(word, folder))?;
    let message = message.trim().trim_start_matches(place).trim_start_matches(':').trim();
    Some(format!("{place}: {message}"))
}

/// The word as a place, if it is one: a file that is there, and one or two numbers.
fn place_in<'a>(word: &'a str, folder: &Path) -> Option<&'a str> {
    // Compilers go on after the place: `tool.c:3:5: error`.
    let word = word.trim_start_matches("file://");
    // Some see the project's folder as the root.
    let word = word
        .strip_prefix('/')
        .filter(|inside| !inside.starts_with('/') && !Path::new(word.split(':').next().unwrap_or(word)).is_file())
        .unwrap_or(word);
    let (file, rest) = word.split_once(':')?;
    let mut numbers = rest.split(':');
    let line = numbers.next().filter(|number| is_number(number))?;
    let column = numbers.next().filter(|number| is_number(number));
    let end = file.len() + 1 + line.len() + column.map_or(0, |column| 1 + column.len());
    folder.join(file).is_file().then(|| word.get(..end)).flatten()
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Python names the innermost place last.
fn traceback(lines: &[String], folder: &Path) -> Option<String> {
    let mut places = lines.iter().enumerate().filter_map(|(at, line)| {
        let (file, rest) = line.split_once("File \"")?.1.split_once("\", line ")?;
        let number: String = rest.chars().take_while(char::is_ascii_digit).collect();
        let inside = file.strip_prefix(&format!("{}/", folder.display())).unwrap_or(file);
        // componentize-py numbers the folders that it looks into, and the project's is the first.
        let inside = inside.strip_prefix("/0/").unwrap_or(inside);
        (!inside.starts_with(['/', '.', '<']) && folder.join(inside).is_file())
            .then(|| (at, format!("{inside}:{number}")))
    });
    let (at, place) = places.next_back()?;
    let message = lines
        .get(at..)?
        .iter()
        .find(|line| line.contains("Error: ") && !line.contains("File \""))
        .map_or("", |line| line.trim());
    Some(format!("{place}: {message}"))
}

/// A line without what colors it.
fn plain(line: &str) -> String {
    let mut plain = String::with_capacity(line.len());
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        if character == '\u{1b}' {
            characters.by_ref().find(char::is_ascii_alphabetic);
        } else {
            plain.push(character);
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_error_of_every_compiler_is_found() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(folder.path().join("src")).expect("made");
        for file in ["src/lib.rs", "src/tool.ts", "tool.c", "tool.go", "app.py"] {
            std::fs::write(folder.path().join(file), "").expect("written");
        }
        let absolute = folder.path().join("app.py").display().to_string();
        for (said, expected) in [
            (
                "Error: function name expected\n    at /src/tool.ts:1:17\n",
                "src/tool.ts:1:17: Error: function name expected",
            ),
            (
                "warning: unused\n --> src/lib.rs:1:1\n\u{1b}[31merror[E0425]\u{1b}[0m: cannot find value `x`\n  --> src/lib.rs:3:5\n",
                "src/lib.rs:3:5: error[E0425]: cannot find value `x`",
            ),
            ("✘ [ERROR] Expected \";\"\n\n    src/tool.ts:2:4:\n", "src/tool.ts:2:4: ✘ [ERROR] Expected \";\""),
            (
                "tool.c:5:3: error: use of undeclared identifier 'y'\n",
                "tool.c:5:3: error: use of undeclared identifier 'y'",
            ),
            ("src/tool.ts(4,2): nothing\nSyntaxError: oops\n at src/tool.ts:7\n", "src/tool.ts:7: SyntaxError: oops"),
            (
                &format!(
                    "Traceback (most recent call last):\n  File \"/lib/runpy.py\", line 9\n  File \"{absolute}\", line 4, in f\n    x\nNameError: name 'x' is not defined\n"
                ),
                "app.py:4: NameError: name 'x' is not defined",
            ),
        ] {
            assert_eq!(first_error(said, folder.path()).as_deref(), Some(expected), "{said}");
        }
        assert_eq!(first_error("error: nothing of ours at other.rs:1:2", folder.path()), None);
        assert_eq!(first_error("all is well in src/lib.rs:1:2", folder.path()), None);
    }
}
