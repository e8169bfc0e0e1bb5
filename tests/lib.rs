//! The end-to-end tests are in `e2e/`, the benches in `benches/`, their guests in `guests/`.
