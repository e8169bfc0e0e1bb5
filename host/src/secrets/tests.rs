use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::tenant::home::KEY_FILE;

const HEX: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

fn name(text: &str) -> SecretName {
    SecretName::new(text).expect("a name")
}

fn home(dir: &Path, tenant: &str) -> Home {
    Home { tenant: TenantId::new(tenant).expect("a tenant"), path: dir.to_owned() }
}

fn secrets(dir: &Path, tenant: &str) -> Secrets {
    Secrets::new(&home(dir, tenant), KeySource::new(dir, |_| None))
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).expect("there").permissions().mode() & 0o777
}

#[test]
fn names_are_checked() {
    for (text, legal) in [
        ("A", true),
        ("API_KEY2", true),
        ("", false),
        ("a", false),
        ("_A", false),
        ("1A", false),
        ("A-B", false),
        ("A B", false),
        (&"A".repeat(64), true),
        (&"A".repeat(65), false),
    ] {
        assert_eq!(SecretName::new(text).is_ok(), legal, "{text:?}");
    }
}

#[test]
fn a_secret_is_set_listed_opened_and_removed() {
    let dir = tempfile::tempdir().expect("a folder");
    let secrets = secrets(dir.path(), "local");
    assert!(secrets.list().expect("none yet").is_empty());
    secrets.set(&name("B"), b"second\n").expect("set");
    secrets.set(&name("A"), b"first value").expect("set");
    assert_eq!(secrets.list().expect("listed"), [name("A"), name("B")]);
    assert_eq!(*secrets.open(&name("B")).expect("opened"), "second");
    // A running host has another view of the same file.
    let other = self::secrets(dir.path(), "local");
    other.set(&name("B"), b"third").expect("set");
    assert_eq!(*secrets.open(&name("B")).expect("opened"), "third");
    assert!(other.remove(&name("B")).expect("removed") && !other.remove(&name("B")).expect("gone already"));
    assert!(matches!(secrets.open(&name("B")), Err(SecretError::Unknown { .. })));
    let text = std::fs::read_to_string(dir.path().join(FILE)).expect("the file");
    assert!(!text.contains("first value"), "{text}");
    assert_eq!((mode(&dir.path().join(FILE)), mode(&dir.path().join(KEY_FILE))), (0o600, 0o600));
}

#[test]
fn an_entry_stands_only_for_its_own_tenant_and_name() {
    let dir = tempfile::tempdir().expect("a folder");
    let local = secrets(dir.path(), "local");
    local.set(&name("A"), b"value").expect("set");
    let path = dir.path().join(FILE);
    let text = std::fs::read_to_string(&path).expect("the file");
    assert!(matches!(secrets(dir.path(), "other").open(&name("A")), Err(SecretError::Sealed { .. })));
    std::fs::write(&path, text.replace("secrets.A", "secrets.B")).expect("moved");
    assert!(matches!(local.open(&name("B")), Err(SecretError::Sealed { .. })));
    // Another key opens nothing, and a missing one is not replaced by a new one.
    std::fs::write(&path, &text).expect("back");
    let under_another = KeySource::new(dir.path(), |_| Some(HEX.to_owned()));
    let local = Secrets::new(&home(dir.path(), "local"), under_another);
    assert!(matches!(local.open(&name("A")), Err(SecretError::Sealed { .. })));
    std::fs::remove_file(dir.path().join(KEY_FILE)).expect("removed");
    let missing = secrets(dir.path(), "local").open(&name("A"));
    assert!(matches!(missing, Err(SecretError::Key(KeyError::Missing { .. }))), "{missing:?}");
    assert!(!dir.path().join(KEY_FILE).exists());
}

#[test]
fn a_key_that_others_can_read_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let secrets = secrets(dir.path(), "local");
    secrets.set(&name("A"), b"value").expect("set");
    for bits in [0o640, 0o604, 0o660] {
        std::fs::set_permissions(dir.path().join(KEY_FILE), std::fs::Permissions::from_mode(bits)).expect("set");
        let refused = [secrets.open(&name("A")).map(drop), secrets.set(&name("B"), b"x")];
        for refused in refused {
            assert!(matches!(refused, Err(SecretError::Key(KeyError::Readable { .. }))), "{bits:o}: {refused:?}");
        }
    }
}

#[test]
fn a_key_has_two_forms() {
    let bytes: Vec<u8> = (0..32).collect();
    use base64::Engine as _;
    let base64 = base64::engine::general_purpose::STANDARD.encode(&bytes);
    let (hex, base64) = (Key::parse(HEX).expect("hex"), Key::parse(&format!("{base64}\n")).expect("base64"));
    let sealed = hex.seal(b"value", b"bound").expect("sealed");
    assert_eq!(*base64.open(&sealed, b"bound").expect("opened"), b"value");
    assert!(base64.open(&sealed, b"other").is_none());
    for text in
        ["", "00", &HEX[1..], &format!("{HEX}00"), "zz0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"]
    {
        assert!(Key::parse(text).is_none(), "{text}");
    }
}

#[test]
fn values_are_bounded_text() {
    let dir = tempfile::tempdir().expect("a folder");
    let secrets = secrets(dir.path(), "local");
    for (value, says) in
        [(&b""[..], "empty"), (b"\n", "empty"), (&[0xff, 0xfe], "UTF-8"), (&[b'a'; MAX_VALUE_BYTES + 1], "64 KiB")]
    {
        let error = secrets.set(&name("A"), value).expect_err(says).to_string();
        assert!(error.contains(says), "{error}");
    }
    secrets.set(&name("A"), &[b'a'; MAX_VALUE_BYTES]).expect("the longest");
}

#[test]
fn a_file_that_is_not_ours_is_refused_without_its_contents() {
    let dir = tempfile::tempdir().expect("a folder");
    for text in [
        "version = 2\n",
        "version = 1\n[secrets]\nA = 'plain text'\n",
        "version = 1\n[secrets.a]\nnonce=''\nsealed=''",
        "A=plain",
    ] {
        std::fs::write(dir.path().join(FILE), text).expect("written");
        let error = secrets(dir.path(), "local").list().expect_err(text).to_string();
        assert!(!error.contains("plain"), "{error}");
    }
}
