#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fanfare::fuzz::request_facts(bytes));
