//! Counts tokens: fast while a client waits, exactly for counts that are stored.
//!
//! [`estimate`] reads the text once and needs no tables. Nothing else runs before the first byte of a response.
//! [`Counter`] counts exactly for `cl100k_base`. Its tables cost tens of milliseconds and are built once per process,
//! at the first count, so it must run after the last delta and on a thread that may block. For doubao and other model
//! families its counts are approximate too; an upstream's own `usage` is better where it is plausible, which
//! [`is_believable`] decides.

use std::num::NonZeroUsize;
use std::sync::Mutex;

use lru::LruCache;

use crate::clock::lock;
use crate::message::PromptMessage;

/// Tokens that the chat format adds to every message.
pub const PER_MESSAGE: u64 = 4;
/// Tokens that the chat format adds to start the reply.
pub const PER_REPLY: u64 = 2;
/// Tokens that the chat format adds to a message with a name.
pub const PER_NAME: u64 = 1;

/// Highest plausible average length of a token, in bytes. Only a single repeated character has longer tokens.
const MAX_MEAN_BYTES_PER_TOKEN: u64 = 32;

/// Returns whether `count` is plausible as the number of tokens of `text`: at least one, at most one per byte, and on
/// average no more than 32 bytes per token. Upstreams and other writers of the stored
/// format send zeros, counts that include hidden reasoning, and arbitrary values.
#[must_use]
pub fn is_believable(count: u64, text: &str) -> bool {
    let bytes = u64::try_from(text.len()).unwrap_or(u64::MAX);
    (1..=bytes).contains(&count) && count.saturating_mul(MAX_MEAN_BYTES_PER_TOKEN) >= bytes
}

/// Returns a quick estimate of the number of tokens, rounded down: 1.5 per CJK ideograph (U+4E00 to U+9FFF), 0.3 per
/// character of Latin text, and for other scripts the average of `cl100k_base`.
#[must_use]
pub fn estimate(text: &str) -> u64 {
    text.chars().map(hundredths).sum::<u64>() / 100
}

/// Returns the weight of a character in hundredths of a token, at most 100 per byte of UTF-8. The figures outside
/// Chinese and Latin were measured on short conversations; a test compares them with exact counts.
fn hundredths(char: char) -> u64 {
    match u32::from(char) {
        // ASCII and Latin-1; punctuation of Latin and Chinese text.
        0..=0xFF | 0x2010..=0x2027 | 0x3000..=0x303F => 30,
        0xFF01 | 0xFF08 | 0xFF09 | 0xFF0C | 0xFF0E | 0xFF1A | 0xFF1B | 0xFF1F => 30,
        0x4E00..=0x9FFF => 150,
        // Latin letters of Polish, Turkish, Vietnamese and others; phonetic letters; combining marks.
        0x100..=0x24F => 100,
        0x1E00..=0x1EFF => 140,
        0x250..=0x36F => 190,
        // Greek, including polytonic accents; Cyrillic, and its letters outside the Slavic languages; Armenian;
        // Hebrew; Arabic.
        0x370..=0x3FF => 105,
        0x400..=0x45F => 60,
        0x460..=0x52F => 190,
        0x530..=0x58F => 200,
        0x590..=0x5FF => 115,
        0x600..=0x77F => 95,
        0x780..=0x8FF => 200,
        // Scripts of India: Devanagari; Bengali; Gurmukhi and Gujarati; Oriya; Tamil; Telugu to Sinhala.
        0x900..=0x97F => 125,
        0x980..=0x9FF => 145,
        0xA00..=0xAFF => 195,
        0xB00..=0xB7F => 290,
        0xB80..=0xBFF => 155,
        0xC00..=0xDFF => 200,
        // Thai; Lao, Tibetan, Burmese and Georgian; Khmer.
        0xE00..=0xE7F => 100,
        0xE80..=0x10FF => 215,
        0x1780..=0x17FF => 175,
        // Joiners and other format characters; symbols; box drawing, blocks and shapes.
        0x2000..=0x206F => 150,
        0x2500..=0x25FF => 120,
        0x2070..=0x2BFF => 200,
        // Kana; single letters of Hangul; Hangul syllables.
        0x3040..=0x30FF => 105,
        0x3130..=0x318F => 230,
        0xAC00..=0xD7A3 => 150,
        // Variation selectors of emoji; full-width letters and half-width kana.
        0xFE00..=0xFE0F => 150,
        0xFF00..=0xFFEF => 200,
        // Emoji; mathematical letters; rare scripts and ideographs.
        0x1F000..=0x1FAFF => 260,
        0x1D400..=0x1D7FF => 295,
        0x1_0000.. => 375,
        _ => 285,
    }
}

/// Counts tokens exactly, and caches the counts of recent texts.
#[derive(Debug)]
pub struct Counter {
    /// Locked for a lookup or an insertion, never while counting.
    recent: Mutex<LruCache<Box<str>, u64>>,
}

impl Counter {
    /// Number of texts whose counts are cached. The system prompt and the history recur every turn.
    const CACHED_TEXTS: NonZeroUsize = NonZeroUsize::new(512).expect("not zero");
    /// Longest text whose count is cached, in bytes. It bounds the cache to about 2 MiB.
    const MAX_CACHED_BYTES: usize = 4_096;

    /// Returns a counter with an empty cache. Builds no tables.
    #[must_use]
    pub fn new() -> Self {
        Self {
            recent: Mutex::new(LruCache::new(Self::CACHED_TEXTS)),
        }
    }

    /// Returns the number of tokens of `text`. Special tokens spelled out by a user (`<|endoftext|>`) count as plain
    /// text.
    #[must_use]
    pub fn count(&self, text: &str) -> u64 {
        if text.len() > Self::MAX_CACHED_BYTES {
            return count(text);
        }
        let recent = || lock(&self.recent);
        if let Some(known) = recent().get(text) {
            return *known;
        }
        let counted = count(text);
        recent().put(text.into(), counted);
        counted
    }

    /// Returns the number of tokens of a whole prompt, including the overhead of the chat format.
    #[must_use]
    pub fn count_prompt(&self, messages: &[PromptMessage]) -> u64 {
        let each = messages.iter().map(|message| {
            let name = message
                .name
                .as_ref()
                .map_or(0, |name| PER_NAME + self.count(name));
            PER_MESSAGE + self.count(&message.content) + name
        });
        each.sum::<u64>() + PER_REPLY
    }
}

impl Default for Counter {
    fn default() -> Self {
        Self::new()
    }
}

/// Returns the number of tokens of `text`, without the cache.
///
/// The first call in the process builds the tables of `cl100k_base`; concurrent calls wait for it. The tables are
/// never built twice: a build whose caller has given up continues, because it blocks no thread that serves requests.
fn count(text: &str) -> u64 {
    let counted = tiktoken_rs::cl100k_base_singleton().count_ordinary(text);
    u64::try_from(counted).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::message::Role;

    #[test]
    fn the_estimate_of_chinese_and_latin_is_the_formula() {
        assert_eq!(estimate(""), 0);
        assert_eq!(estimate("你好"), 3);
        assert_eq!(estimate("你"), 1);
        assert_eq!(estimate("hello"), 1);
        assert_eq!(estimate("hello worl"), 3);
        assert_eq!(estimate("你好 hi"), 3);
        assert_eq!(estimate("你好，世界！（“嗯……”）"), 9);
        assert_eq!(estimate("très bientôt"), 3);
        // The first and the last ideograph of the block.
        assert_eq!(estimate("\u{4E00}\u{9FFF}"), 3);
    }

    /// Lowest and highest ratio of an estimate to the exact count that is accepted.
    const MIN_RATIO: f64 = 0.75;
    const MAX_RATIO: f64 = 1.4;

    /// One or two sentences of each script, as a user might write them.
    const SCRIPTS: [(&str, &str); 43] = [
        (
            "english",
            "Good evening! I was just thinking about you. How was your day at work, and did you manage to get some rest in the end?",
        ),
        (
            "polish",
            "Dobry wieczór! Właśnie o tobie myślałam. Jak minął dzień w pracy i czy udało ci się w końcu trochę odpocząć?",
        ),
        (
            "vietnamese",
            "Chào buổi tối! Em vừa nghĩ đến anh. Hôm nay đi làm thế nào, cuối cùng anh có được nghỉ ngơi chút nào không?",
        ),
        (
            "turkish",
            "İyi akşamlar! Ben de tam seni düşünüyordum. İşte günün nasıl geçti, sonunda biraz dinlenebildin mi?",
        ),
        (
            "chinese",
            "晚上好呀！我刚才还在想你呢。今天上班怎么样，最后有没有好好休息一下？窗外下着小雨，我给你泡了一杯热茶。",
        ),
        (
            "traditional",
            "晚安！我剛才還在想你呢。今天上班怎麼樣，最後有沒有好好休息一下？窗外下著小雨，我給你泡了一杯熱茶。",
        ),
        (
            "japanese",
            "こんばんは！ちょうどあなたのことを考えていました。今日のお仕事はどうでしたか。少しは休めましたか。",
        ),
        (
            "hiragana",
            "こんばんは、きょうはいいてんきでしたね。すこしはやすめましたか。またあしたおはなししましょう。",
        ),
        (
            "katakana",
            "アイスクリームトコーヒーヲチュウモンシマシタ。テレビノニュースヲミテカラレストランヘイキマス。",
        ),
        (
            "korean",
            "안녕하세요! 방금 당신 생각을 하고 있었어요. 오늘 회사에서는 어땠어요? 조금이라도 쉴 수 있었나요?",
        ),
        (
            "Hangul syllables",
            "가나다라마바사아자차카타파하거너더러머버서어저처커터퍼허고노도로모보소오조초코토포호",
        ),
        (
            "russian",
            "Добрый вечер! Я как раз думала о тебе. Как прошёл день на работе, удалось ли тебе наконец отдохнуть?",
        ),
        (
            "ukrainian",
            "Добрий вечір! Я саме думала про тебе. Як минув день на роботі, чи вдалося тобі нарешті відпочити?",
        ),
        (
            "kazakh",
            "Қайырлы кеш! Мен сені ойлап отыр едім. Бүгін жұмысың қалай өтті, аздап демала алдың ба?",
        ),
        (
            "greek",
            "Καλησπέρα! Μόλις σε σκεφτόμουν. Πώς πήγε η μέρα σου στη δουλειά, κατάφερες να ξεκουραστείς λίγο;",
        ),
        (
            "armenian",
            "Բարի երեկո։ Ես հենց նոր քո մասին էի մտածում։ Ինչպե՞ս անցավ օրդ աշխատանքում։",
        ),
        (
            "georgian",
            "საღამო მშვიდობისა! სწორედ შენზე ვფიქრობდი. როგორ ჩაიარა დღემ სამსახურში?",
        ),
        (
            "hebrew",
            "ערב טוב! בדיוק חשבתי עליך. איך עבר היום בעבודה, והצלחת סוף סוף לנוח קצת?",
        ),
        (
            "arabic",
            "مساء الخير! كنت أفكر فيك للتو. كيف كان يومك في العمل، وهل تمكنت من أن ترتاح قليلا؟",
        ),
        (
            "persian",
            "عصر بخیر! همین الان به تو فکر می‌کردم. امروز سر کار چطور بود، توانستی کمی استراحت کنی؟",
        ),
        (
            "urdu",
            "شام بخیر! میں ابھی آپ کے بارے میں سوچ رہی تھی۔ آج کام پر دن کیسا گزرا، کچھ آرام کیا؟",
        ),
        (
            "hindi",
            "शुभ संध्या! मैं अभी तुम्हारे बारे में सोच रही थी। आज काम पर दिन कैसा रहा, थोड़ा आराम मिला?",
        ),
        (
            "bengali",
            "শুভ সন্ধ্যা! আমি এইমাত্র তোমার কথা ভাবছিলাম। আজ কাজে দিনটা কেমন গেল, একটু বিশ্রাম পেলে?",
        ),
        (
            "punjabi",
            "ਸ਼ੁਭ ਸ਼ਾਮ! ਮੈਂ ਹੁਣੇ ਤੁਹਾਡੇ ਬਾਰੇ ਸੋਚ ਰਹੀ ਸੀ। ਅੱਜ ਕੰਮ ਤੇ ਦਿਨ ਕਿਵੇਂ ਰਿਹਾ?",
        ),
        (
            "gujarati",
            "શુભ સાંજ! હું હમણાં જ તારા વિશે વિચારતી હતી. આજે કામ પર દિવસ કેવો રહ્યો?",
        ),
        (
            "tamil",
            "மாலை வணக்கம்! நான் இப்போதுதான் உன்னை நினைத்துக் கொண்டிருந்தேன். இன்று வேலை எப்படி இருந்தது?",
        ),
        (
            "telugu",
            "శుభ సాయంత్రం! నేను ఇప్పుడే నీ గురించి ఆలోచిస్తున్నాను. ఈరోజు పని ఎలా జరిగింది?",
        ),
        (
            "kannada",
            "ಶುಭ ಸಂಜೆ! ನಾನು ಈಗಷ್ಟೇ ನಿನ್ನ ಬಗ್ಗೆ ಯೋಚಿಸುತ್ತಿದ್ದೆ. ಇಂದು ಕೆಲಸ ಹೇಗಿತ್ತು?",
        ),
        (
            "malayalam",
            "ശുഭ സായാഹ്നം! ഞാൻ ഇപ്പോൾ നിന്നെക്കുറിച്ച് ചിന്തിക്കുകയായിരുന്നു. ഇന്ന് ജോലി എങ്ങനെ?",
        ),
        (
            "sinhala",
            "සුබ සන්ධ්‍යාවක්! මම දැන් ඔබ ගැන සිතමින් සිටියා. අද වැඩ කොහොමද?",
        ),
        (
            "thai",
            "สวัสดีตอนเย็น เมื่อกี้ฉันกำลังคิดถึงคุณอยู่พอดี วันนี้ทำงานเป็นอย่างไรบ้าง ได้พักผ่อนบ้างไหม",
        ),
        ("lao", "ສະບາຍດີຕອນແລງ ຂ້ອຍກຳລັງຄິດຮອດເຈົ້າຢູ່ພໍດີ ມື້ນີ້ເຮັດວຽກເປັນແນວໃດ"),
        (
            "burmese",
            "မင်္ဂလာညချမ်းပါ။ ငါ အခုပဲ မင်းအကြောင်း တွေးနေတာ။ ဒီနေ့ အလုပ် ဘယ်လိုလဲ။",
        ),
        ("khmer", "សួស្តីពេលល្ងាច ខ្ញុំកំពុងគិតដល់អ្នកអំបាញ់មិញ ថ្ងៃនេះធ្វើការយ៉ាងម៉េចដែរ"),
        ("tibetan", "དགོང་མོ་བདེ་ལེགས། ང་ད་ལྟ་རང་ཉིད་ཁྱེད་རང་དྲན་གྱི་འདུག"),
        (
            "amharic",
            "እንደምን አመሸህ! አሁን ስለ አንተ እያሰብኩ ነበር። ዛሬ ሥራ እንዴት ነበር?",
        ),
        ("mongolian", "ᠣᠷᠣᠢ ᠶᠢᠨ ᠮᠡᠨᠳᠦ᠃ ᠪᠢ ᠶᠠᠭ ᠴᠢᠮᠠ ᠶᠢ ᠪᠣᠳᠣᠵᠤ ᠪᠠᠶᠢᠯᠠ"),
        ("cherokee", "ᎣᏏᏲ ᏙᎯᏧ ᎠᏂᏴᏫᏯ ᏣᎳᎩ ᎦᏬᏂᎯᏍᏗ"),
        (
            "full width",
            "Ｈｅｌｌｏ　ｗｏｒｌｄ！　ＡＢＣ　１２３４５　ｃｏｍｐａｎｉｏｎ　ｃｈａｔ",
        ),
        ("half width kana", "ｱｲｽｸﾘｰﾑﾄｺｰﾋｰｦﾁｭｳﾓﾝｼﾏｼﾀ"),
        ("emoji", "😀😂🥰😍🤗😭🙏👍🎉🔥💕✨🌙☕🍰🐶🌸🎂🥳😴"),
        ("joined emoji", "👨‍👩‍👧‍👦👩🏽‍💻🏳️‍🌈🇩🇪🇯🇵👍🏿❤️‍🔥🧑🏻‍🚀"),
        ("mathematical letters", "𝓗𝓮𝓵𝓵𝓸 𝕨𝕠𝕣𝕝𝕕 𝔤𝔬𝔬𝔡 𝖊𝖛𝖊𝖓𝖎𝖓𝖌"),
    ];

    #[test]
    fn the_estimate_of_every_script_is_near_the_count() {
        for (script, text) in SCRIPTS {
            let factor = estimate(text) as f64 / count(text) as f64;
            assert!(
                (MIN_RATIO..=MAX_RATIO).contains(&factor),
                "{script}: {factor:.2} of {} tokens",
                count(text)
            );
        }
    }

    #[test]
    fn a_character_weighs_no_more_than_its_bytes() {
        for char in '\0'..=char::MAX {
            assert!(hundredths(char) <= 100 * char.len_utf8() as u64, "{char:?}");
        }
    }

    #[test]
    fn a_count_that_cannot_be_is_not_believed() {
        let text = "字".repeat(6_000);
        for (count, text, believable) in [
            (0, "", false),
            (0, "好。", false),
            (1, "好。", true),
            (6, "好。", true),
            (7, "好。", false),
            (21_000, "好。", false),
            (u64::MAX, text.as_str(), false),
            (0, &text, false),
            (1, &text, false),
            (562, &text, false),
            (563, &text, true),
            (18_000, &text, true),
        ] {
            assert_eq!(is_believable(count, text), believable, "{count}");
        }
    }

    #[test]
    fn counts_are_those_of_cl100k() {
        let counter = Counter::new();
        assert_eq!(counter.count(""), 0);
        assert_eq!(counter.count("hello world"), 2);
        assert_eq!(counter.count("tiktoken is great!"), 6);
        assert_eq!(counter.count("お誕生日おめでとう"), 9);
    }

    #[test]
    fn special_tokens_in_a_message_are_plain_text() {
        let counter = Counter::new();
        for special in ["<|endoftext|>", "<|im_start|>"] {
            let counted = counter.count(special);
            assert!(counted > 1, "{special}");
            // The text between the brackets, and at least one token for each pair of brackets.
            let word = special.trim_matches(['<', '|', '>']);
            assert!(counted >= count(word) + 2, "{special}");
        }
    }

    #[test]
    fn a_prompt_has_its_overhead() {
        let counter = Counter::new();
        let mut messages = vec![
            PromptMessage::new(Role::System, "hello world"),
            PromptMessage::new(Role::User, "hello world"),
        ];
        assert_eq!(counter.count_prompt(&messages), 4 + 2 + 4 + 2 + 2);
        messages[1].name = Some("hello world".into());
        assert_eq!(counter.count_prompt(&messages), 4 + 2 + 4 + 2 + 2 + 1 + 2);
        assert_eq!(counter.count_prompt(&[]), 2);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let counter = Counter::new();
        for n in 0..2_000 {
            let _ = counter.count(&format!("text {n}"));
        }
        let long = "word ".repeat(2_000);
        assert_eq!(counter.count(&long), count(&long));
        let recent = counter.recent.lock().expect("not poisoned");
        assert_eq!(recent.len(), Counter::CACHED_TEXTS.get());
        assert!(!recent.contains(long.as_str()));
    }

    #[test]
    fn one_character_repeated_to_the_longest_reply_is_counted() {
        for unit in ["a", " ", "\n", "!", "가"] {
            let run = unit.repeat(256 * 1024 / unit.len());
            assert!((1..=256 * 1024).contains(&count(&run)), "{unit:?}");
        }
    }

    proptest! {
        #[test]
        fn a_count_is_believable_or_of_one_character_repeated(text in "[\\PC]{1,40}") {
            let counted = count(&text);
            prop_assert!((1..=text.len() as u64).contains(&counted), "{} of {:?}", counted, text);
        }

        #[test]
        fn a_kept_count_is_the_count(text in "\\PC{0,40}") {
            let counter = Counter::new();
            let first = counter.count(&text);
            prop_assert_eq!(counter.count(&text), first);
            prop_assert_eq!(count(&text), first);
        }
    }
}
