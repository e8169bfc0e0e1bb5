//! The length of records.

use serde::Serialize;

/// Bytes of the JSON of a value.
pub fn json_bytes(value: &impl Serialize) -> usize {
    /// Counts what is written to it.
    struct Count(usize);
    impl std::io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 = self.0.saturating_add(bytes.len());
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    // Nothing in a record is without a JSON form.
    let _counted = serde_json::to_writer(&mut count, value);
    count.0
}
