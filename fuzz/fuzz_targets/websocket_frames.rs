#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| sekisho::fuzzing::check_websocket_frames(input));
