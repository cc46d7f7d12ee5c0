//! A request head: any split gives the whole's result, and what is accepted can be checked and answered.
#![no_main]

use libfuzzer_sys::fuzz_target;
use stentor::http::{HeadLimits, OriginRules, accept_into, check_upgrade, parse_head};
use stentor::ws::Step;

const LIMITS: HeadLimits = HeadLimits { head_bytes_max: 2048 };

fuzz_target!(|input: (u8, &[u8])| {
    let (step, bytes) = input;
    let whole = parse_head(bytes, &mut 0, &LIMITS);
    let mut scanned = 0;
    let mut end = 0;
    loop {
        end = (end + 1 + usize::from(step)).min(bytes.len());
        match parse_head(&bytes[..end], &mut scanned, &LIMITS) {
            Ok(Step::NeedMore) if end < bytes.len() => {}
            piecewise => {
                let len = |step: &Result<Step<stentor::http::Head<'_>>, _>| match step {
                    Ok(Step::Done(head)) => Ok(Some(head.len)),
                    Ok(Step::NeedMore) => Ok(None),
                    Err(reject) => Err(*reject),
                };
                assert_eq!(len(&piecewise), len(&whole));
                break;
            }
        }
    }
    if let Ok(Step::Done(head)) = whole
        && let Ok(upgrade) = check_upgrade(&head, &OriginRules::default(), true)
    {
        let mut out = Vec::new();
        accept_into(&mut out, &upgrade, None);
        assert!(out.ends_with(b"\r\n\r\n"));
    }
});
