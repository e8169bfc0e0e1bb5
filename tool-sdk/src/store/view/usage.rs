//! How large the space is.

use super::{
    super::{StoreError, Usage},
    View,
};

impl View<'_> {
    /// How large the space is, and its quota: in a transaction with all that it has written, in a snapshot as it was when that was opened. The numbers are those by
    /// which the store refuses a write as [`StoreError::QuotaExceeded`]. A transaction hands its writes over first, so ask once, at its end.
    ///
    /// ```
    /// use mcpp_tool::{Error, store::{Map, memory, snapshot, transact}};
    ///
    /// const NOTES: Map<u64, String> = Map::new("notes");
    ///
    /// /// Leaves a tenth of the quota to other things than notes.
    /// fn keep(number: u64, note: &str) -> Result<(), Error> {
    ///     transact(|t| {
    ///         NOTES.set(t, &number, &note.to_owned())?;
    ///         let usage = t.usage()?;
    ///         if usage.free_bytes() < usage.quota_bytes / 10 {
    ///             return Err(Error::failed("there is no room for more notes"));
    ///         }
    ///         Ok(())
    ///     })
    /// }
    ///
    /// memory::set_quota(1_000);
    /// assert!(keep(1, &"x".repeat(600)).is_ok());
    /// assert!(keep(2, &"x".repeat(300)).is_err());
    /// let used = snapshot().unwrap().usage().unwrap().used_bytes;
    /// assert!((600..700).contains(&used));
    /// ```
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn usage(&self) -> Result<Usage, StoreError> {
        self.write_counts()?;
        self.hand_over()?;
        self.called();
        self.charge(0, 0, false);
        self.noted(self.source.usage())
    }
}
