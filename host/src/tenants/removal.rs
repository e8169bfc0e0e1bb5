//! Taking a tenant out of a host: what it had is copied if the operator wants it, then nothing of it stays. The copy is its owner's only, as the data was.

use std::path::{Path, PathBuf};

use super::TenantsError;
use crate::{
    auth::tokens::TokenFile,
    files::{copy_privately, new_folder},
    names::TenantId,
    peers::file::PeerFile,
    store::Store,
    tenant::home::Homes,
};

/// Files and folders that the host copies besides the data. It copies no secrets: only this host can read them.
const EXPORTED: [&str; 5] = ["tenant.toml", "accepted.json", "grants", "tools", "fetched"];

/// Removes a tenant that nobody uses any more. How many entries of its data were copied.
pub async fn remove(
    homes: &Homes,
    tenant: &TenantId,
    export: Option<&Path>,
    store: &dyn Store,
) -> Result<u64, TenantsError> {
    let home = homes.find(tenant)?;
    let mut entries = 0;
    if let Some(target) = export {
        new_folder(target).map_err(failed(target))?;
        if store.tenants().await?.contains(tenant) {
            entries = store.backup(tenant, &target.join("data.redb"), Box::new(|_| {})).await?;
        }
        for name in EXPORTED {
            copy(&home.path.join(name), &target.join(name))?;
        }
    }
    // The tokens first: from then on nobody comes in, whatever becomes of the rest.
    TokenFile::new(homes.tokens()).revoke_all(tenant)?;
    PeerFile::new(homes).revoke_tenant(tenant)?;
    store.remove(tenant).await?;
    let compiled = homes.compiled(tenant);
    match std::fs::remove_dir_all(&compiled) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(&compiled)(error)),
        _ => {}
    }
    homes.remove(tenant)?;
    Ok(entries)
}

/// Copies a file, or a folder with the files in it; nothing if the path is not there. Leaves out everything that is no plain file: it could point anywhere.
fn copy(from: &Path, to: &Path) -> Result<(), TenantsError> {
    let Ok(meta) = std::fs::symlink_metadata(from) else { return Ok(()) };
    if meta.is_file() {
        copy_privately(from, to).map_err(failed(from))?;
    } else if meta.is_dir() {
        new_folder(to).map_err(failed(to))?;
        for entry in std::fs::read_dir(from).map_err(failed(from))? {
            let entry = entry.map_err(failed(from))?;
            copy(&entry.path(), &to.join(entry.file_name()))?;
        }
    }
    Ok(())
}

fn failed(path: &Path) -> impl FnOnce(std::io::Error) -> TenantsError + use<> {
    let path: PathBuf = path.to_owned();
    move |source| TenantsError::Io { path, source }
}
