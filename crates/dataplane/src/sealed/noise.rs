//! The handshake itself: Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s (The Noise Protocol Framework, revision 34), one message each way.

use super::{format::Format, keypair::Keys};
use crate::{PublicKey, Secret};
use snow::{
    Builder, Error, HandshakeState,
    params::{CipherChoice, DHChoice, HashChoice},
    resolvers::{CryptoResolver, DefaultResolver},
    types::{Cipher, Dh, Hash, Random},
};
use zeroize::Zeroizing;

const PATTERN: &str = "Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s";
/// Without its payload: an ephemeral key, and a static key with its tag.
const FIRST_BYTES: usize = 32 + 32 + 16 + 16;
const SECOND_BYTES: usize = 32 + 16;
/// Longer than the payload of any message.
const LONGEST_PAYLOAD_BYTES: usize = 64;
/// Where the preshared key enters, in the framework's counting.
const PSK: u8 = 2;
const NO_PSK: [u8; 32] = [0; 32];

/// The end that begins, waiting for the answer.
pub(crate) struct Initiator(HandshakeState);

impl Initiator {
    /// Begins a handshake with the owner of a public key. Returns the first message.
    pub(crate) fn begin(
        format: Format,
        private: &Secret,
        remote: &PublicKey,
        psk: Option<&Secret>,
        payload: &[u8],
    ) -> Option<(Self, Vec<u8>)> {
        let mut state = builder(format)?
            .local_private_key(private.bytes())
            .and_then(|builder| builder.remote_public_key(remote))
            .and_then(|builder| builder.psk(PSK, psk.map_or(&NO_PSK, Secret::bytes)))
            .and_then(Builder::build_initiator)
            .ok()?;
        let mut message = vec![0; FIRST_BYTES.saturating_add(payload.len())];
        let length = state.write_message(payload, &mut message).ok()?;
        (length == message.len()).then_some((Self(state), message))
    }

    /// Takes the answer. `None`, and nothing changed, when it is none.
    pub(crate) fn finish(&mut self, message: &[u8]) -> Option<(Vec<u8>, Keys)> {
        let payload = read(&mut self.0, message)?;
        let (ours, theirs) = self.0.dangerously_get_raw_split();
        Some((payload, Keys { send: Zeroizing::new(ours), receive: Zeroizing::new(theirs) }))
    }
}

/// The end that answers, before it has.
pub(crate) struct Responder {
    state: HandshakeState,
    /// Who began, as that end has proved.
    pub(crate) remote: PublicKey,
    pub(crate) payload: Vec<u8>,
}

impl Responder {
    /// Reads a first message that was made for this private key.
    pub(crate) fn read(format: Format, private: &Secret, message: &[u8]) -> Option<Self> {
        let mut state = builder(format)?.local_private_key(private.bytes()).and_then(Builder::build_responder).ok()?;
        let payload = read(&mut state, message)?;
        let remote = state.get_remote_static()?.try_into().ok()?;
        Some(Self { state, remote, payload })
    }

    /// Answers.
    pub(crate) fn answer(mut self, psk: Option<&Secret>, payload: &[u8]) -> Option<(Vec<u8>, Keys)> {
        let psk = psk.map_or(&NO_PSK, Secret::bytes);
        self.state.set_psk(PSK.into(), psk).ok()?;
        let mut message = vec![0; SECOND_BYTES.saturating_add(payload.len())];
        let length = self.state.write_message(payload, &mut message).ok()?;
        let (theirs, ours) = self.state.dangerously_get_raw_split();
        (length == message.len())
            .then(|| (message, Keys { send: Zeroizing::new(ours), receive: Zeroizing::new(theirs) }))
    }
}

/// The public key of a private one.
pub(crate) fn public_key(private: &Secret) -> Option<PublicKey> {
    let mut dh = DefaultResolver.resolve_dh(&DHChoice::Curve25519)?;
    dh.set(private.bytes());
    dh.pubkey().try_into().ok()
}

fn builder(format: Format) -> Option<Builder<'static>> {
    let params = PATTERN.parse().ok()?;
    Builder::with_resolver(params, Box::new(Resolver)).prologue(format.prologue()).ok()
}

fn read(state: &mut HandshakeState, message: &[u8]) -> Option<Vec<u8>> {
    let mut payload = [0; LONGEST_PAYLOAD_BYTES];
    let length = state.read_message(message, &mut payload).ok()?;
    payload.get(..length).map(<[u8]>::to_vec)
}

/// The library's own primitives with the system's random numbers.
struct Resolver;

impl CryptoResolver for Resolver {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(System))
    }
    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        DefaultResolver.resolve_dh(choice)
    }
    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        DefaultResolver.resolve_hash(choice)
    }
    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        DefaultResolver.resolve_cipher(choice)
    }
}

struct System;

impl Random for System {
    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Error> {
        getrandom::fill(bytes).map_err(|_| Error::Rng)
    }
}
