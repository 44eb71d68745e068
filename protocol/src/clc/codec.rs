//! Reading and writing CLC bytes in order.
//!
//! Everything about byte order and position is here: the message modules only name their fields one
//! after the other. Integers are big-endian, except the link id, which is a copy of memory.
#![forbid(unsafe_code)]

use super::{Error, Eyecatcher, HEADER_LEN, Header, Malformed};

/// Takes fields off the front of a message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Reader { rest: bytes }
    }

    pub(super) fn left(&self) -> usize {
        self.rest.len()
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        match self.rest.split_first_chunk::<N>() {
            Some((head, rest)) => {
                self.rest = rest;
                Ok(*head)
            }
            None => Err(Malformed::Short {
                need: N,
                have: self.rest.len(),
            }
            .into()),
        }
    }

    /// Steps over reserved bytes, whatever they hold: so does the kernel.
    pub(super) fn skip(&mut self, n: usize) -> Result<(), Error> {
        match self.rest.get(n..) {
            Some(rest) => {
                self.rest = rest;
                Ok(())
            }
            None => Err(Malformed::Short {
                need: n,
                have: self.rest.len(),
            }
            .into()),
        }
    }

    pub(super) fn u8(&mut self) -> Result<u8, Error> {
        self.array().map(u8::from_be_bytes)
    }

    pub(super) fn u16(&mut self) -> Result<u16, Error> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Error> {
        self.array().map(u32::from_be_bytes)
    }

    /// A number that the sender copied from its memory: host order, both ends being on one host.
    pub(super) fn u32_host(&mut self) -> Result<u32, Error> {
        self.array().map(u32::from_ne_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Error> {
        self.array().map(u64::from_be_bytes)
    }

    /// The last field: skips what lies before it, demands one of the two eyecatchers.
    pub(super) fn trailer(mut self) -> Result<(), Error> {
        let before = self.rest.len().saturating_sub(Eyecatcher::LEN);
        self.skip(before)?;
        let trailer = self.array()?;
        match Eyecatcher::from_bytes(trailer) {
            Some(_) => Ok(()),
            None => Err(Malformed::Trailer(trailer).into()),
        }
    }
}

/// Puts fields one after the other into a buffer that is large enough by construction: every
/// message states its `MAX_LEN`, and lists have a capacity.
#[derive(Debug)]
pub(super) struct Writer<'a> {
    out: &'a mut [u8],
    at: usize,
    trailer: Eyecatcher,
}

impl<'a> Writer<'a> {
    /// Starts a message. The length is filled in by [`Writer::finish`].
    pub(super) fn new(out: &'a mut [u8], header: Header) -> Self {
        let mut w = Writer {
            out,
            at: 0,
            trailer: header.eyecatcher,
        };
        w.bytes(&header.eyecatcher.bytes());
        w.u8(header.kind as u8);
        w.u16(0);
        w.u8(header.version << 4 | (header.typev2 & 3) << 2 | (header.typev1 & 3));
        w
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        let room = self.out.get_mut(self.at..self.at + bytes.len());
        debug_assert!(room.is_some(), "MAX_LEN of a message is too small");
        if let Some(room) = room {
            room.copy_from_slice(bytes);
            self.at += bytes.len();
        }
    }

    pub(super) fn zeros(&mut self, n: usize) {
        for _ in 0..n {
            self.u8(0);
        }
    }

    pub(super) fn u8(&mut self, n: u8) {
        self.bytes(&[n]);
    }

    pub(super) fn u16(&mut self, n: u16) {
        self.bytes(&n.to_be_bytes());
    }

    pub(super) fn u32(&mut self, n: u32) {
        self.bytes(&n.to_be_bytes());
    }

    pub(super) fn u32_host(&mut self, n: u32) {
        self.bytes(&n.to_ne_bytes());
    }

    pub(super) fn u64(&mut self, n: u64) {
        self.bytes(&n.to_be_bytes());
    }

    /// Appends the trailer, writes the length into the header and gives it.
    pub(super) fn finish(mut self) -> usize {
        self.bytes(&self.trailer.bytes());
        let len = self.at as u16; // MAX_LEN of every message is below 1024
        if let Some(field) = self.out.get_mut(HEADER_LEN - 3..HEADER_LEN - 1) {
            field.copy_from_slice(&len.to_be_bytes());
        }
        self.at
    }
}
