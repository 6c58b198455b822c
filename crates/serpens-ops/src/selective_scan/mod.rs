//! selective_scan
