//! Builds a tiny Llama model whose weights are random except for its output, which makes it recite one text. So tests
//! know the text of its replies, and their length.
//!
//! The file has the format GGUF, version 3 (`docs/gguf.md` in ggml's repository): a head of typed pairs, the list of
//! tensors, and their data.

use std::path::Path;

use fastrand::Rng;

/// What the model says when a prompt ends with a line break, as those of the template ChatML do. A character of two
/// bytes and one of four are written in single bytes, so that tokens split them. No token repeats, as each has one
/// successor.
pub(crate) const RECITED: &str = "你好呀，我是月亮。é 今晚很美😊！";
/// Number of tokens of [`RECITED`], with the one that ends it.
pub(crate) const RECITED_TOKENS: u64 = 22;

const EMBEDDING: usize = 64;
const FEED_FORWARD: usize = 96;
const LAYERS: usize = 2;
const HEADS: u32 = 4;
/// The longest context that the model admits to, in tokens; servers may take less.
const CONTEXT_TOKENS: u32 = 16_384;

const END_TOKEN: usize = 2;
/// The tokens `<0x00>` to `<0xFF>`.
const FIRST_BYTE_TOKEN: usize = 3;
/// Data of tensors begins at multiples of it.
const ALIGNMENT: usize = 32;

/// How far the right token is in front of all others. No temperature below 2 makes the model say another.
const CERTAINTY: f32 = 6.0;

// Types of values, as GGUF numbers them.
const U32: u32 = 4;
const I32: u32 = 5;
const F32: u32 = 6;
const BOOL: u32 = 7;
const STRING: u32 = 8;
const ARRAY: u32 = 9;
/// The type of a tensor of 32-bit floats.
const TENSOR_F32: u32 = 0;

// Types of tokens, as llama.cpp numbers them.
const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const BYTE: i32 = 6;

/// Writes the model.
pub(crate) fn write(path: &Path) {
    let vocabulary = Vocabulary::new();
    let tensors = tensors(&vocabulary);
    let pairs = pairs(&vocabulary);
    let mut file = Bytes(b"GGUF".to_vec());
    file.u32(3);
    file.u64(tensors.len());
    file.u64(pairs.count);
    file.0.extend(pairs.bytes.0);
    let mut offset = 0;
    for tensor in &tensors {
        file.string(&tensor.name);
        file.u32(u32::try_from(tensor.shape.len()).expect("few"));
        for length in &tensor.shape {
            file.u64(*length);
        }
        file.u32(TENSOR_F32);
        file.u64(offset);
        offset += (tensor.values.len() * 4).next_multiple_of(ALIGNMENT);
    }
    for tensor in &tensors {
        file.pad();
        tensor.values.iter().for_each(|value| file.f32(*value));
    }
    file.pad();
    std::fs::write(path, file.0).expect("written");
}

/// The tokens, and which of them follows which.
struct Vocabulary {
    /// With their types.
    tokens: Vec<(String, i32)>,
    /// The tokens of the text, from the line break before it to the end after it.
    recited: Vec<usize>,
}

impl Vocabulary {
    fn new() -> Self {
        let mut tokens = vec![
            ("<unk>".to_owned(), UNKNOWN),
            ("<s>".to_owned(), CONTROL),
            ("</s>".to_owned(), CONTROL),
        ];
        tokens.extend((0..=u8::MAX).map(|byte| (format!("<0x{byte:02X}>"), BYTE)));
        let mut recited = vec![FIRST_BYTE_TOKEN + usize::from(b'\n')];
        for character in RECITED.chars() {
            if matches!(character.len_utf8(), 2 | 4) {
                let bytes = character.to_string().into_bytes();
                recited.extend(
                    bytes
                        .iter()
                        .map(|byte| FIRST_BYTE_TOKEN + usize::from(*byte)),
                );
                continue;
            }
            // A space, as SentencePiece writes it.
            let piece = character.to_string().replace(' ', "\u{2581}");
            let known = tokens.iter().position(|(token, _)| *token == piece);
            recited.push(known.unwrap_or(tokens.len()));
            if known.is_none() {
                tokens.push((piece, NORMAL));
            }
        }
        recited.push(END_TOKEN);
        Self { tokens, recited }
    }
}

fn pairs(vocabulary: &Vocabulary) -> Pairs {
    let number = |number: usize| u32::try_from(number).expect("small");
    let mut pairs = Pairs::default();
    pairs.string("general.architecture", "llama");
    pairs.string("general.name", "a model of a test");
    pairs.u32("llama.context_length", CONTEXT_TOKENS);
    pairs.u32("llama.embedding_length", number(EMBEDDING));
    pairs.u32("llama.block_count", number(LAYERS));
    pairs.u32("llama.feed_forward_length", number(FEED_FORWARD));
    pairs.u32("llama.attention.head_count", HEADS);
    pairs.u32("llama.rope.dimension_count", number(EMBEDDING) / HEADS);
    pairs.key("llama.attention.layer_norm_rms_epsilon", F32);
    pairs.bytes.f32(1e-5);
    pairs.string("tokenizer.ggml.model", "llama");
    pairs.array("tokenizer.ggml.tokens", STRING, vocabulary.tokens.len());
    for (token, _) in &vocabulary.tokens {
        pairs.bytes.string(token);
    }
    pairs.array("tokenizer.ggml.scores", F32, vocabulary.tokens.len());
    for _ in &vocabulary.tokens {
        pairs.bytes.f32(0.0);
    }
    pairs.array("tokenizer.ggml.token_type", I32, vocabulary.tokens.len());
    for (_, kind) in &vocabulary.tokens {
        pairs.bytes.0.extend(kind.to_le_bytes());
    }
    pairs.u32("tokenizer.ggml.unknown_token_id", 0);
    pairs.u32("tokenizer.ggml.bos_token_id", 1);
    pairs.u32("tokenizer.ggml.eos_token_id", number(END_TOKEN));
    pairs.key("tokenizer.ggml.add_space_prefix", BOOL);
    pairs.bytes.0.push(0);
    pairs
}

struct Tensor {
    name: String,
    shape: Vec<usize>,
    values: Vec<f32>,
}

/// All weights are random, and what the layers add is small: what comes next depends on the last token above all.
fn tensors(vocabulary: &Vocabulary) -> Vec<Tensor> {
    let mut random = Rng::with_seed(7);
    let mut tensors = Vec::new();
    let mut add = |name: String, shape: &[usize], values: Vec<f32>| {
        assert_eq!(values.len(), shape.iter().product::<usize>(), "{name}");
        tensors.push(Tensor {
            name,
            shape: shape.to_vec(),
            values,
        });
    };
    let size = vocabulary.tokens.len();
    let embeddings = noise(&mut random, EMBEDDING * size, 1.0);
    let mut output = vec![0.0; EMBEDDING * size];
    for pair in vocabulary.recited.windows(2) {
        let (before, after) = (pair[0] * EMBEDDING, pair[1] * EMBEDDING);
        let embedding = &embeddings[before..before + EMBEDDING];
        let length = embedding.iter().map(|value| value * value).sum::<f32>();
        let row = output[after..after + EMBEDDING].iter_mut();
        for (weight, value) in row.zip(embedding) {
            *weight = CERTAINTY * value / length.sqrt();
        }
    }
    add("token_embd.weight".into(), &[EMBEDDING, size], embeddings);
    add("output.weight".into(), &[EMBEDDING, size], output);
    add(
        "output_norm.weight".into(),
        &[EMBEDDING],
        vec![1.0; EMBEDDING],
    );
    for layer in 0..LAYERS {
        for (name, columns, rows, scale) in [
            ("attn_q", EMBEDDING, EMBEDDING, 0.1),
            ("attn_k", EMBEDDING, EMBEDDING, 0.1),
            ("attn_v", EMBEDDING, EMBEDDING, 0.1),
            ("attn_output", EMBEDDING, EMBEDDING, 0.01),
            ("ffn_gate", EMBEDDING, FEED_FORWARD, 0.1),
            ("ffn_up", EMBEDDING, FEED_FORWARD, 0.1),
            ("ffn_down", FEED_FORWARD, EMBEDDING, 0.01),
        ] {
            let values = noise(&mut random, columns * rows, scale);
            add(
                format!("blk.{layer}.{name}.weight"),
                &[columns, rows],
                values,
            );
        }
        for name in ["attn_norm", "ffn_norm"] {
            let ones = vec![1.0; EMBEDDING];
            add(format!("blk.{layer}.{name}.weight"), &[EMBEDDING], ones);
        }
    }
    tensors
}

/// Returns random numbers of this order.
fn noise(random: &mut Rng, count: usize, scale: f32) -> Vec<f32> {
    let value = |_| (random.f32() + random.f32() + random.f32() - 1.5) * 2.0 * scale;
    (0..count).map(value).collect()
}

/// Typed pairs of the head.
#[derive(Default)]
struct Pairs {
    bytes: Bytes,
    count: usize,
}

impl Pairs {
    fn key(&mut self, key: &str, kind: u32) {
        self.count += 1;
        self.bytes.string(key);
        self.bytes.u32(kind);
    }

    fn u32(&mut self, key: &str, value: u32) {
        self.key(key, U32);
        self.bytes.u32(value);
    }

    fn string(&mut self, key: &str, value: &str) {
        self.key(key, STRING);
        self.bytes.string(value);
    }

    /// Begins an array, whose elements follow.
    fn array(&mut self, key: &str, kind: u32, length: usize) {
        self.key(key, ARRAY);
        self.bytes.u32(kind);
        self.bytes.u64(length);
    }
}

/// Bytes in the order of GGUF, which is little-endian.
#[derive(Default)]
struct Bytes(Vec<u8>);

impl Bytes {
    fn u32(&mut self, value: u32) {
        self.0.extend(value.to_le_bytes());
    }

    fn u64(&mut self, value: usize) {
        self.0.extend((value as u64).to_le_bytes());
    }

    fn f32(&mut self, value: f32) {
        self.0.extend(value.to_le_bytes());
    }

    fn string(&mut self, text: &str) {
        self.u64(text.len());
        self.0.extend(text.bytes());
    }

    fn pad(&mut self) {
        self.0.resize(self.0.len().next_multiple_of(ALIGNMENT), 0);
    }
}
