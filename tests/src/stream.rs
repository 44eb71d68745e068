//! A deterministic stream of bytes, and a hash to compare what arrived.

use crate::artefacts;
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// An endless stream that depends on the seed only (xorshift64*).
#[derive(Debug)]
pub struct Stream {
    state: u64,
}

impl Stream {
    pub fn new(seed: u64) -> Stream {
        Stream {
            state: seed.wrapping_mul(2).wrapping_add(1),
        }
    }

    /// Fills `buffer` with the next bytes; its length is a multiple of 8.
    pub fn fill(&mut self, buffer: &mut [u8]) {
        for word in buffer.chunks_exact_mut(8) {
            self.state ^= self.state >> 12;
            self.state ^= self.state << 25;
            self.state ^= self.state >> 27;
            let value = self.state.wrapping_mul(0x2545_f491_4f6c_dd1d);
            word.copy_from_slice(&value.to_le_bytes());
        }
    }

    /// A number below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        let mut word = [0; 8];
        self.fill(&mut word);
        (u64::from_le_bytes(word) >> 16) % n
    }

    /// Writes `len` bytes (a multiple of 64 KiB) to a new file and gives their hash.
    pub fn to_file(mut self, path: &Path, len: usize) -> u64 {
        let mut file = BufWriter::new(File::create(path).expect("a new file"));
        let mut block = vec![0; 1 << 16];
        let mut hash = Hash::new();
        for _ in 0..len / block.len() {
            self.fill(&mut block);
            hash.update(&block);
            file.write_all(&block).expect("room for the stream");
        }
        file.flush().expect("room for the stream");
        hash.finish()
    }
}

/// A file with `mib` MiB of the stream, made once and kept in the target directory, and its hash.
pub fn sample(mib: usize) -> (PathBuf, u64) {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(|e| e.into_inner());
    let dir = artefacts::target().join("tests");
    let path = dir.join(format!("stream-{mib}"));
    if let Ok(file) = File::open(&path) {
        let (len, hash) = hash_all(file).expect("a readable sample");
        if len == (mib as u64) << 20 {
            return (path, hash);
        }
    }
    fs::create_dir_all(&dir).expect("a directory in target");
    let unfinished = path.with_extension(std::process::id().to_string());
    let hash = Stream::new(mib as u64).to_file(&unfinished, mib << 20);
    fs::rename(&unfinished, &path).expect("the sample in place");
    (path, hash)
}

/// A 64-bit hash over words; the length counts too. Not for adversaries.
#[derive(Debug)]
pub struct Hash {
    state: u64,
    tail: Vec<u8>,
    len: u64,
}

impl Hash {
    #[expect(clippy::new_without_default, reason = "a hash has no default value")]
    pub fn new() -> Hash {
        Hash {
            state: 0x9e37_79b9_7f4a_7c15,
            tail: Vec::with_capacity(8),
            len: 0,
        }
    }

    fn word(&mut self, word: u64) {
        self.state = (self.state ^ word).wrapping_mul(0xff51_afd7_ed55_8ccd);
        self.state ^= self.state >> 32;
    }

    pub fn update(&mut self, mut bytes: &[u8]) {
        self.len += bytes.len() as u64;
        while !self.tail.is_empty() && !bytes.is_empty() {
            self.tail.push(bytes[0]);
            bytes = &bytes[1..];
            if let Ok(word) = self.tail.as_slice().try_into() {
                self.word(u64::from_le_bytes(word));
                self.tail.clear();
            }
        }
        let mut words = bytes.chunks_exact(8);
        for word in &mut words {
            self.word(u64::from_le_bytes(word.try_into().expect("8 bytes")));
        }
        self.tail.extend_from_slice(words.remainder());
    }

    pub fn finish(mut self) -> u64 {
        let mut last = [0; 8];
        last[..self.tail.len()].copy_from_slice(&self.tail);
        self.word(u64::from_le_bytes(last));
        self.word(self.len);
        self.state
    }
}

/// Length and hash of all that `reader` gives.
pub fn hash_all(mut reader: impl Read) -> io::Result<(u64, u64)> {
    let mut hash = Hash::new();
    let mut block = vec![0; 1 << 18];
    loop {
        match reader.read(&mut block)? {
            0 => return Ok((hash.len, hash.finish())),
            n => hash.update(&block[..n]),
        }
    }
}

/// Length and hash of a file.
pub fn hash_file(path: &Path) -> (u64, u64) {
    hash_all(File::open(path).expect("the received file")).expect("the received file")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hash_does_not_depend_on_cuts() {
        let mut bytes = vec![0; 4096];
        Stream::new(5).fill(&mut bytes);
        let whole = hash_all(&bytes[..]).unwrap();
        for cut in [1, 3, 7, 8, 9, 1000] {
            let mut hash = Hash::new();
            bytes.chunks(cut).for_each(|c| hash.update(c));
            assert_eq!((4096, hash.finish()), whole);
        }
        assert_ne!(hash_all(&bytes[1..]).unwrap().1, whole.1);
    }
}
