//! Fields of fixed size, in host byte order.

use crate::ids::{Gid, Role};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DecodeError {
    /// Shorter or longer than its header or its kind says.
    Length,
    Magic,
    /// The peer speaks this other version.
    Version(u16),
    Kind(u16),
    /// A field holds a value that its type does not have.
    Field,
}

/// Fixed-size field of a message.
pub trait Wire: Sized {
    const SIZE: usize;
    fn put(&self, out: &mut [u8]);
    fn get(raw: &[u8]) -> Result<Self, DecodeError>;
}

/// The bytes from `at` on; what does not fit is not written, rather than panicking in the library.
pub(super) fn from(out: &mut [u8], at: usize) -> &mut [u8] {
    out.get_mut(at..).unwrap_or_default()
}

macro_rules! wire_int {
    ($($t:ty),*) => {$(
        impl Wire for $t {
            const SIZE: usize = size_of::<$t>();
            fn put(&self, out: &mut [u8]) {
                if let Some(room) = out.first_chunk_mut() {
                    *room = self.to_ne_bytes();
                }
            }
            fn get(raw: &[u8]) -> Result<Self, DecodeError> {
                let raw = raw.get(..Self::SIZE).ok_or(DecodeError::Length)?;
                Ok(<$t>::from_ne_bytes(raw.try_into().map_err(|_| DecodeError::Length)?))
            }
        }
    )*};
}
wire_int!(u8, u16, u32, u64, u128);

impl<T: Wire + Copy + Default, const N: usize> Wire for [T; N] {
    const SIZE: usize = T::SIZE * N;
    fn put(&self, out: &mut [u8]) {
        for (i, item) in self.iter().enumerate() {
            item.put(from(out, i * T::SIZE));
        }
    }
    fn get(raw: &[u8]) -> Result<Self, DecodeError> {
        let mut all = [T::default(); N];
        for (i, item) in all.iter_mut().enumerate() {
            *item = T::get(raw.get(i * T::SIZE..).ok_or(DecodeError::Length)?)?;
        }
        Ok(all)
    }
}

impl Wire for Gid {
    const SIZE: usize = 16;
    fn put(&self, out: &mut [u8]) {
        self.as_u128().put(out);
    }
    fn get(raw: &[u8]) -> Result<Self, DecodeError> {
        u128::get(raw).map(Gid::from_uuid)
    }
}

impl Wire for Role {
    const SIZE: usize = 1;
    fn put(&self, out: &mut [u8]) {
        (*self as u8).put(out);
    }
    fn get(raw: &[u8]) -> Result<Self, DecodeError> {
        match u8::get(raw)? {
            0 => Ok(Role::Client),
            1 => Ok(Role::Server),
            _ => Err(DecodeError::Field),
        }
    }
}
