//! A component for the tests of granted directories: what a program does with `std::fs`, and what an attacker does below it.
#![allow(clippy::disallowed_methods, reason = "a guest has its thread to itself")]

use std::{
    fs::{self, File, OpenOptions},
    io::{Read as _, Write as _},
    time::{Duration, SystemTime},
};

use mcpp_tool::{Error, tool};
use wasip2::filesystem::{
    preopens,
    types::{Descriptor, DescriptorFlags, ErrorCode, NewTimestamp, OpenFlags, PathFlags},
};

fn failed(error: impl std::fmt::Display) -> Error {
    Error::failed(error.to_string())
}

fn refused(error: ErrorCode) -> Error {
    Error::failed(format!("refused: {}", error.name()))
}

/// Reads a text file.
#[tool(read_only)]
fn files_read(path: String) -> Result<String, Error> {
    fs::read_to_string(path).map_err(failed)
}

/// The names in a directory, sorted.
#[tool(read_only)]
fn files_list(path: String) -> Result<Vec<String>, Error> {
    let entries = fs::read_dir(path).map_err(failed)?;
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry.map_err(failed)?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// Writes a text file.
#[tool]
fn files_write(path: String, text: String) -> Result<(), Error> {
    fs::write(path, text).map_err(failed)
}

/// Does one thing of `std::fs` to a path, or with two.
#[tool]
fn files_do(what: String, path: String, other: Option<String>) -> Result<String, Error> {
    let other = other.unwrap_or_default();
    match what.as_str() {
        "append" => {
            let mut file = OpenOptions::new().append(true).open(path).map_err(failed)?;
            file.write_all(other.as_bytes()).map_err(failed)?;
        }
        "create-new" => drop(File::create_new(path).map_err(failed)?),
        "truncate" => drop(OpenOptions::new().write(true).truncate(true).open(path).map_err(failed)?),
        "set-len" => {
            let file = OpenOptions::new().write(true).open(path).map_err(failed)?;
            file.set_len(other.parse().map_err(failed)?).map_err(failed)?;
        }
        "touch" => {
            let file = File::open(path).map_err(failed)?;
            file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1)).map_err(failed)?;
        }
        "remove" => fs::remove_file(path).map_err(failed)?,
        "remove-dir" => fs::remove_dir(path).map_err(failed)?,
        "remove-all" => fs::remove_dir_all(path).map_err(failed)?,
        "make-dir" => fs::create_dir(path).map_err(failed)?,
        "rename" => fs::rename(path, other).map_err(failed)?,
        "link" => fs::hard_link(path, other).map_err(failed)?,
        "size" => return Ok(fs::metadata(path).map_err(failed)?.len().to_string()),
        _ => return Err(Error::failed(format!("what is {what}?"))),
    }
    Ok("done".into())
}

/// The directory that is granted at `at`.
fn root(at: &str) -> Result<Descriptor, Error> {
    let found = preopens::get_directories().into_iter().find(|(_, name)| name == at);
    found.map(|(root, _)| root).ok_or_else(|| Error::failed("no such directory is granted"))
}

/// Where directories are granted.
#[tool(read_only)]
fn files_granted() -> Vec<String> {
    preopens::get_directories().into_iter().map(|(_, at)| at).collect()
}

/// Does one thing of `wasi:filesystem` itself to a path below a granted directory, past what the library checks.
#[tool]
fn files_raw(what: String, at: String, path: String, other: Option<String>) -> Result<String, Error> {
    let root = root(&at)?;
    let other = other.unwrap_or_default();
    let follow = PathFlags::SYMLINK_FOLLOW;
    let open = |open: OpenFlags, flags: DescriptorFlags| root.open_at(follow, &path, open, flags).map_err(refused);
    match what.as_str() {
        "read" => {
            let file = open(OpenFlags::empty(), DescriptorFlags::READ)?;
            let (bytes, _) = file.read(1_000, 0).map_err(refused)?;
            return Ok(String::from_utf8_lossy(&bytes).into_owned());
        }
        "open-write" => drop(open(OpenFlags::empty(), DescriptorFlags::WRITE)?),
        "open-truncate" => drop(open(OpenFlags::TRUNCATE, DescriptorFlags::READ)?),
        "open-create" => drop(open(OpenFlags::CREATE, DescriptorFlags::READ)?),
        "open-mutable" => {
            // A directory opened for changes, and a change through it.
            let dir = open(OpenFlags::DIRECTORY, DescriptorFlags::READ | DescriptorFlags::MUTATE_DIRECTORY)?;
            dir.create_directory_at("made").map_err(refused)?;
        }
        // Through a handle that was opened to read.
        "write" => {
            let file = open(OpenFlags::empty(), DescriptorFlags::READ)?;
            file.write(b"overwritten", 0).map_err(refused)?;
        }
        "write-stream" => {
            let file = open(OpenFlags::empty(), DescriptorFlags::READ)?;
            drop(file.write_via_stream(0).map_err(refused)?);
        }
        "append-stream" => {
            let file = open(OpenFlags::empty(), DescriptorFlags::READ)?;
            drop(file.append_via_stream().map_err(refused)?);
        }
        "set-size" => open(OpenFlags::empty(), DescriptorFlags::READ)?.set_size(0).map_err(refused)?,
        "set-times" => {
            let file = open(OpenFlags::empty(), DescriptorFlags::READ)?;
            file.set_times(NewTimestamp::Now, NewTimestamp::Now).map_err(refused)?;
        }
        "set-times-at" => {
            root.set_times_at(follow, &path, NewTimestamp::Now, NewTimestamp::Now).map_err(refused)?;
        }
        "symlink" => root.symlink_at(&other, &path).map_err(refused)?,
        "readlink" => return root.readlink_at(&path).map_err(refused),
        "stat" => return Ok(format!("{:?}", root.stat_at(follow, &path).map_err(refused)?.type_)),
        _ => return Err(Error::failed(format!("what is {what}?"))),
    }
    Ok("done".into())
}

/// Writes this many bytes in pieces, in one of the ways there are.
#[tool]
fn files_flood(at: String, path: String, how: String, pieces: u32, piece: usize) -> Result<String, Error> {
    let root = root(&at)?;
    let flags = DescriptorFlags::READ | DescriptorFlags::WRITE;
    let file = root.open_at(PathFlags::empty(), &path, OpenFlags::CREATE, flags).map_err(refused)?;
    let bytes = vec![b'x'; piece];
    for number in 0..u64::from(pieces) {
        match how.as_str() {
            "write" => drop(file.write(&bytes, number * piece as u64).map_err(refused)?),
            "size" => file.set_size((number + 1) * piece as u64).map_err(refused)?,
            "stream" | "append" | "zeroes" | "unflushed" => {
                let stream = if how == "append" {
                    file.append_via_stream().map_err(refused)?
                } else {
                    file.write_via_stream(number * piece as u64).map_err(refused)?
                };
                let written = match how.as_str() {
                    "zeroes" => stream.blocking_write_zeroes_and_flush(piece as u64),
                    "unflushed" => {
                        stream.subscribe().block();
                        stream.check_write().and_then(|_| stream.write(&bytes))
                    }
                    _ => stream.blocking_write_and_flush(&bytes),
                };
                written.map_err(|error| Error::failed(format!("{error:?}")))?;
            }
            _ => return Err(Error::failed(format!("how is {how}?"))),
        }
    }
    Ok("written".into())
}

/// Opens something again and again and keeps it, as files, as streams of files that are closed, or as listings; how many there could be, and why not more.
#[tool]
fn files_hoard(at: String, path: String, kept_as: String, most: u32) -> Result<(u32, String), Error> {
    let root = root(&at)?;
    let (mut files, mut streams, mut listings) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..most {
        let file = match root.open_at(PathFlags::empty(), &path, OpenFlags::empty(), DescriptorFlags::READ) {
            Ok(file) => file,
            Err(error) => return Ok((number, error.name().into())),
        };
        match kept_as.as_str() {
            "streams" => streams.push(file.read_via_stream(0).map_err(refused)?),
            "listings" => match file.read_directory() {
                Ok(listing) => listings.push(listing),
                Err(error) => return Ok((number, error.name().into())),
            },
            _ => files.push(file),
        }
    }
    Ok((most, "all".into()))
}

/// Makes directories within each other; how many there could be, and why not more.
#[tool]
fn files_dig(at: String, depth: u32) -> Result<(u32, String), Error> {
    let mut dir = root(&at)?;
    for number in 0..depth {
        if let Err(error) = dir.create_directory_at("d") {
            return Ok((number, error.name().into()));
        }
        match dir.open_at(PathFlags::empty(), "d", OpenFlags::DIRECTORY, DescriptorFlags::READ) {
            Ok(deeper) => dir = deeper,
            Err(error) => return Ok((number, error.name().into())),
        }
    }
    Ok((depth, "all".into()))
}

/// Reads a path again and again, whatever it is each time; everything that it ever read.
#[tool(read_only)]
fn files_watch(path: String, times: u32) -> Vec<String> {
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..times {
        let mut text = String::new();
        if File::open(&path).and_then(|mut file| file.read_to_string(&mut text)).is_ok() {
            seen.insert(text);
        }
    }
    seen.into_iter().collect()
}

mcpp_tool::export!(
    files_read,
    files_list,
    files_write,
    files_do,
    files_granted,
    files_raw,
    files_flood,
    files_hoard,
    files_dig,
    files_watch
);
