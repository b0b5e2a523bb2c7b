//! Numbers in header fields: octal text, or base-256 where the first bit is set (GNU, star).

/// Reads a numeric field; `None` when it holds neither form or doesn't fit. An empty field is 0.
pub(super) fn number(field: &[u8]) -> Option<i64> {
    match field.first() {
        Some(first) if first & 0x80 != 0 => base256(field),
        _ => octal(field),
    }
}

fn base256(field: &[u8]) -> Option<i64> {
    // Two's complement over the whole field, its first bit being the mark and the second the sign.
    let negative = field[0] & 0x40 != 0;
    let mut value: i64 = if negative { -1 } else { 0 };
    for (at, &byte) in field.iter().enumerate() {
        let byte = match at {
            0 if negative => byte | 0x80,
            0 => byte & 0x7f,
            _ => byte,
        };
        if value != (value << 8) >> 8 {
            return None;
        }
        value = (value << 8) | i64::from(byte);
    }
    Some(value)
}

fn octal(field: &[u8]) -> Option<i64> {
    let end = field.iter().position(|&byte| byte == 0).unwrap_or(field.len());
    // Some readers take NULs before the digits for blanks, others for the end: no number is both safe and right.
    if end == 0 && field.iter().any(|byte| !matches!(byte, 0 | b' ')) {
        return None;
    }
    let text = field[..end].trim_ascii();
    text.iter().try_fold(0i64, |value, &digit| match digit {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(i64::from(digit - b'0')),
        _ => None,
    })
}

/// The bytes of a text field up to its NUL.
pub(super) fn text(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|&byte| byte == 0).unwrap_or(field.len());
    &field[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_in_both_forms() {
        for (field, value) in [
            (&b"0000644\0"[..], Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"\0\0\0\0", Some(0)),
            (b"    ", Some(0)),
            (b"77777777777 ", Some(0o77_777_777_777)),
            (b"0000648\0", None),
            (b"-1\0", None),
            (b"\x000000100", None),
            (b"644\0junk", Some(0o644)),
            (b"\x80\0\0\0\0\0\0\x01\0", Some(256)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff", Some(-1)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe", Some(-2)),
            (b"\x80\x01\0\0\0\0\0\0\0\0\0\0", None),
            (b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff", Some(i64::MAX)),
        ] {
            assert_eq!(number(field), value, "{field:?}");
        }
    }
}
