//! Builds the guests that the tests load, by the script that builds every guest.

use std::{
    env,
    path::Path,
    process::{Command, exit},
};

const GUESTS: [&str; 13] = [
    "probe",
    "batch",
    "caller",
    "conformance",
    "store",
    "store-next",
    "files",
    "sockets",
    "standard",
    "waiting",
    "web",
    "hostile",
    "mesh",
];

/// A change of these is a new build of the guests; a change of the SDK's docs is not.
const WATCHED: [&str; 7] = [
    "tests/guests",
    "tool-sdk/Cargo.toml",
    "tool-sdk/src",
    "tool-sdk/macros",
    "tool-sdk/build-guest.sh",
    "tool-sdk/guest-target.sh",
    "wit",
];

fn main() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for watched in WATCHED {
        println!("cargo::rerun-if-changed={}", root.join(watched).display());
    }
    let output = Command::new("bash").arg(root.join("tool-sdk/build-guest.sh")).args(GUESTS).output();
    match output {
        Ok(output) if output.status.success() => {
            println!("cargo::rustc-env=MCPP_TEST_GUESTS={}", String::from_utf8_lossy(&output.stdout).trim());
        }
        Ok(output) => fail(&String::from_utf8_lossy(&output.stderr)),
        Err(error) => fail(&error.to_string()),
    }
}

fn fail(reason: &str) -> ! {
    for line in reason.lines() {
        println!("cargo::error={line}");
    }
    exit(1)
}
