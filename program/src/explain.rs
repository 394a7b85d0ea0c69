//! An error and its causes as the one sentence an operator reads.

use std::error::Error;

/// `outer: cause: cause`. A cause that its outer error already spelled out is not repeated.
pub fn explain(error: &(dyn Error + 'static)) -> String {
    let mut sentence = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        if !sentence.contains(&words) {
            sentence.push_str(": ");
            sentence.push_str(&words);
        }
        cause = error.source();
    }
    sentence
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("destination jdbc-orders could not be reached")]
    struct Outer(#[source] io::Error);

    #[test]
    fn an_operator_reads_the_chain_once() {
        let error = Outer(io::Error::other("connection refused"));
        assert_eq!(explain(&error), "destination jdbc-orders could not be reached: connection refused");
        assert_eq!(explain(&io::Error::other(io::Error::other("no route"))), "no route");
    }
}
