//! Tokens of hooks: with one, somebody who has no other may call one tool. The host knows its own by a MAC, so that it keeps none, and a stranger's guess costs no guest.

use std::{
    collections::BTreeSet,
    fmt, fs,
    io::{self, Write as _},
    path::Path,
};

use crate::{
    files,
    names::{ComponentName, TenantId, ToolName},
    tenant::Incarnation,
};

/// What stands between the parts of a token: in no name, and as it is in a URL.
const BETWEEN: char = '~';
/// Longest token, in bytes.
pub const MAX_TOKEN_BYTES: usize = 512;
/// Longest name of what a token is for.
const MAX_NAME_BYTES: usize = 64;

/// The key of all tokens, and the components that may make some.
pub struct HookTokens {
    key: [u8; 32],
    components: BTreeSet<String>,
}

impl fmt::Debug for HookTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HookTokens").field("components", &self.components).finish_non_exhaustive()
    }
}

/// The tool that a token is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HookTarget {
    /// The tenant.
    pub tenant: TenantId,
    /// The component that made the token, and has the tool.
    pub component: ComponentName,
    /// The tool.
    pub tool: ToolName,
}

impl HookTokens {
    /// Those with the key in a file, which is made if it is not there, for these components.
    ///
    /// # Errors
    /// The file cannot be used.
    pub fn open(path: &Path, components: impl IntoIterator<Item = String>) -> io::Result<Self> {
        let key = match fs::read(path) {
            Ok(bytes) => bytes.try_into().map_err(|_| io::Error::other("the file is no key of 32 bytes"))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let mut key = [0; 32];
                getrandom::fill(&mut key).map_err(io::Error::other)?;
                let mut file = files::private(path)?;
                file.write_all(&key)?;
                file.sync_all()?;
                key
            }
            Err(error) => return Err(error),
        };
        Ok(Self { key, components: components.into_iter().collect() })
    }

    /// A token; none if the component may make none, or the name is not legal.
    pub fn token(&self, target: &HookTarget, incarnation: &Incarnation, name: &str) -> Option<String> {
        let is_legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
        let is_name = (1..=MAX_NAME_BYTES).contains(&name.len()) && name.bytes().all(is_legal);
        let mac = self.mac(target, incarnation, name);
        let HookTarget { tenant, component, tool } = target;
        let may = is_name && self.components.contains(component.as_str());
        may.then(|| format!("{tenant}{BETWEEN}{component}{BETWEEN}{tool}{BETWEEN}{name}{BETWEEN}{}", mac.to_hex()))
    }

    /// The tool that a token is for; none if this host did not make it for the tenant that has the name now.
    pub fn read(&self, token: &str, incarnation: impl Fn(&TenantId) -> Option<Incarnation>) -> Option<HookTarget> {
        if token.len() > MAX_TOKEN_BYTES {
            return None;
        }
        let mut parts = token.split(BETWEEN);
        let (tenant, component, tool) = (parts.next()?, parts.next()?, parts.next()?);
        let (name, mac, None) = (parts.next()?, parts.next()?, parts.next()) else { return None };
        let target = HookTarget {
            tenant: TenantId::new(tenant).ok()?,
            component: ComponentName::new(component).ok()?,
            tool: ToolName::new(tool).ok()?,
        };
        let shown = blake3::Hash::from_hex(mac).ok()?;
        let incarnation = incarnation(&target.tenant)?;
        // The comparison of hashes takes the same time whatever they are.
        let is_ours = self.mac(&target, &incarnation, name) == shown;
        (is_ours && self.components.contains(component)).then_some(target)
    }

    fn mac(&self, target: &HookTarget, incarnation: &Incarnation, name: &str) -> blake3::Hash {
        let incarnation: Option<String> = incarnation.clone().into();
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        let parts = [target.tenant.as_str(), target.component.as_str(), target.tool.as_str(), name];
        for part in parts.into_iter().chain([incarnation.as_deref().unwrap_or_default()]) {
            hasher.update(&part.len().to_le_bytes());
            hasher.update(part.as_bytes());
        }
        hasher.finalize()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target() -> HookTarget {
        HookTarget {
            tenant: TenantId::new("team").expect("legal"),
            component: ComponentName::new("workflow").expect("legal"),
            tool: ToolName::new("workflow_signal").expect("legal"),
        }
    }

    #[test]
    fn a_token_is_read_as_it_was_made_and_in_no_other_way() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("hooks.key");
        let open = || HookTokens::open(&path, ["workflow".to_owned()]).expect("opened");
        let none = Incarnation::default();
        let token = open().token(&target(), &none, "w-1").expect("it may");
        let known = |_: &TenantId| Some(Incarnation::default());
        assert_eq!(open().read(&token, known), Some(target()), "also after a restart");
        let hooks = open();
        for at in 0..token.len() {
            let mut changed = token.clone().into_bytes();
            changed[at] ^= 1;
            let changed = String::from_utf8(changed).expect("ASCII");
            assert_eq!(hooks.read(&changed, known), None, "{changed}");
        }
        for other in ["", "~~~~", &token[..token.len() - 1], &format!("{token}~"), &format!("{token}0")] {
            assert_eq!(hooks.read(other, known), None, "{other}");
        }
        // A tenant of the same name that was made again is another; one that is closed is none.
        let again = |_: &TenantId| Some(Incarnation::from(Some("2".to_owned())));
        assert_eq!((hooks.read(&token, again), hooks.read(&token, |_| None)), (None, None));
        // Another host has another key.
        let other = HookTokens::open(&folder.path().join("other.key"), ["workflow".to_owned()]).expect("opened");
        assert_eq!(other.read(&token, known), None);
        // Components to which hooks are closed make none, and those made before are good no more.
        let closed = HookTokens::open(&path, ["other".to_owned()]).expect("opened");
        assert_eq!((closed.token(&target(), &none, "w-1"), closed.read(&token, known)), (None, None));
        for name in ["", "a~b", "a/b", &"x".repeat(65)] {
            assert_eq!(hooks.token(&target(), &none, name), None, "{name}");
        }
    }
}
