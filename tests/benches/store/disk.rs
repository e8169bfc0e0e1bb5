//! The speed of the disk itself: one small write and one flush after the other.

use std::{fs::OpenOptions, os::unix::fs::FileExt as _, time::Instant};

use crate::{MEASURE, Row, row};

pub(crate) fn flush_rate() -> Vec<Row> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("file");
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path).expect("a file");
    file.write_all_at(&[0; 1 << 20], 0).expect("written");
    file.sync_all().expect("synced");
    let (started, mut flushes) = (Instant::now(), 0_u64);
    while started.elapsed() < MEASURE {
        file.write_all_at(&[1; 4096], flushes % 256 * 4096).expect("written");
        file.sync_data().expect("synced");
        flushes += 1;
    }
    vec![row("the disk: 4 KiB written and flushed, one after the other", flushes as f64 / MEASURE.as_secs_f64(), "1/s")]
}
