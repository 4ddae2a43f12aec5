#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| halo_relay_fuzz::check("pagerduty", bytes));
