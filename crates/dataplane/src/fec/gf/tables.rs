//! What products are looked up in, made by the compiler.
#![expect(clippy::indexing_slicing, reason = "where these run, in the compiler, a panic is an error message")]

/// x^8 + x^4 + x^3 + x^2 + 1.
const POLYNOMIAL: u16 = 0x11d;

/// The products of one coefficient with all bytes, by halves: a product is the sum of two of them.
#[derive(Debug)]
#[repr(C, align(32))]
pub(super) struct Products {
    /// With 0 to 15.
    pub(super) low: [u8; 16],
    /// With 0, 16, 32 and so on.
    pub(super) high: [u8; 16],
}

/// By coefficient.
pub(super) static PRODUCTS: [Products; 256] = {
    let mut all = [const { Products { low: [0; 16], high: [0; 16] } }; 256];
    let mut coefficient = 0;
    while coefficient < 256 {
        let mut half = 0;
        while half < 16 {
            all[coefficient].low[half] = product(coefficient as u8, half as u8);
            all[coefficient].high[half] = product(coefficient as u8, (half as u8) << 4);
            half += 1;
        }
        coefficient += 1;
    }
    all
};

/// The product with a coefficient as a matrix of bits, as `gf2p8affineqb` takes it: its byte 7 - i says which bits of the factor make
/// bit i of the product. By coefficient.
#[cfg(target_arch = "x86_64")]
pub(super) static MATRICES: [u64; 256] = {
    let mut all = [0; 256];
    let mut coefficient = 0;
    while coefficient < 256 {
        let mut column = 0;
        while column < 8 {
            let image = product(coefficient as u8, 1 << column);
            let mut row = 0;
            while row < 8 {
                let bit = (image >> row) as u64 & 1;
                all[coefficient] |= bit << ((7 - row) * 8 + column);
                row += 1;
            }
            column += 1;
        }
        coefficient += 1;
    }
    all
};

/// What gives 1 with each; of 0, which has none, 0.
pub(super) static INVERSES: [u8; 256] = {
    let mut all = [0; 256];
    let (mut element, mut inverse) = (1, 1);
    // The powers of 2 are all elements but 0, and 0x8e is its inverse.
    loop {
        all[element as usize] = inverse;
        (element, inverse) = (product(element, 2), product(inverse, 0x8e));
        if element == 1 {
            break all;
        }
    }
};

const fn product(a: u8, b: u8) -> u8 {
    let (mut sum, mut shifted, mut bits) = (0, a as u16, b);
    while bits != 0 {
        if bits & 1 != 0 {
            sum ^= shifted;
        }
        shifted <<= 1;
        if shifted & 0x100 != 0 {
            shifted ^= POLYNOMIAL;
        }
        bits >>= 1;
    }
    sum as u8
}
