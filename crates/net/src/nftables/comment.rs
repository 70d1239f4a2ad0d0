//! Comments, as libnftnl keeps them in what the kernel calls user data: a type byte, a length byte, the value.

/// `NFTNL_UDATA_RULE_COMMENT`, `NFTNL_UDATA_SET_ELEM_COMMENT` (include/libnftnl/udata.h).
const COMMENT: u8 = 0;

/// With the terminating zero (`NFTNL_UDATA_COMMENT_MAXLEN`, nftables' include/rule.h).
const MAX_BYTES: usize = 128;

/// The user data that holds a comment, or what is wrong with the comment.
pub(crate) fn write(comment: &str) -> Result<Vec<u8>, String> {
    let value = [comment.as_bytes(), &[0]].concat();
    match u8::try_from(value.len()) {
        _ if comment.contains('\0') => Err(format!("the comment `{comment}` contains a zero byte")),
        Ok(length) if value.len() <= MAX_BYTES => Ok([&[COMMENT, length], value.as_slice()].concat()),
        _ => Err(format!(
            "the comment `{comment}` has {} bytes: shorten it to 127, more no `nft` could show",
            comment.len()
        )),
    }
}

/// The comment in user data.
pub(crate) fn read(mut data: &[u8]) -> Option<String> {
    while let [kind, length, rest @ ..] = data {
        let value = rest.get(..usize::from(*length))?;
        if *kind == COMMENT {
            return Some(crate::attribute::text(value));
        }
        data = rest.get(usize::from(*length)..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comment_is_written_with_its_zero_and_read_without() {
        assert_eq!(write("pod").unwrap(), [0, 4, b'p', b'o', b'd', 0]);
        assert_eq!(read(&[0, 4, b'p', b'o', b'd', 0]).as_deref(), Some("pod"));
        assert_eq!(read(&[3, 1, 9, 0, 1, 0]).as_deref(), Some(""));
        assert_eq!(read(&[3, 1, 9]), None);
        assert_eq!(read(&[0, 4, b'p']), None);
        assert_eq!(read(&[]), None);
    }

    #[test]
    fn a_comment_that_nft_could_not_show_is_refused() {
        let longest = "x".repeat(127);
        assert_eq!(read(&write(&longest).unwrap()), Some(longest));
        assert!(write(&"x".repeat(128)).unwrap_err().contains("has 128 bytes"));
        assert!(write(&"ä".repeat(200)).unwrap_err().contains("has 400 bytes"));
        assert!(write("a\0b").unwrap_err().contains("zero byte"));
    }
}
