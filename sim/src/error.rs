//! The one error type of the library: where, which key, what was found and what is allowed.

use std::fmt;

/// Where in an input something is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// File name as the user gave it, or the `--set` text.
    pub file: String,
    /// Line, counted from 1; 0 when the whole file is meant.
    pub line: u64,
    /// Column, counted from 1; 0 when the whole line is meant.
    pub column: u64,
}

/// Something wrong with the input. Prints as `file:line:column: key: message`, leaving out what is not known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    place: Option<Place>,
    key: String,
    message: String,
}

/// Result of everything in this crate that reads input.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error that is known only by its message.
    pub fn new(message: impl Into<String>) -> Self {
        Error { place: None, key: String::new(), message: message.into() }
    }

    /// An error about a whole file.
    pub fn file(file: impl Into<String>, message: impl Into<String>) -> Self {
        Error::new(message).at(file, 0, 0)
    }

    /// The same error with its place. `line` and `column` count from 1; 0 leaves them out.
    pub fn at(mut self, file: impl Into<String>, line: u64, column: u64) -> Self {
        self.place = Some(Place { file: file.into(), line, column });
        self
    }

    /// The same error with the dotted path of the key that it is about.
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = key.into();
        self
    }

    /// Where it is, when known.
    pub fn place(&self) -> Option<&Place> {
        self.place.as_ref()
    }

    /// The dotted path of the key, or an empty text.
    pub fn key_path(&self) -> &str {
        &self.key
    }

    /// What is wrong, without place and key.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{}", place.file)?;
            if place.line > 0 {
                write!(f, ":{}", place.line)?;
                if place.column > 0 {
                    write!(f, ":{}", place.column)?;
                }
            }
            write!(f, ": ")?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        write!(f, "{}", self.message)
    }
}

impl std::error::Error for Error {}
