//! The messages of a sampled session: Chinese text of exact lengths, as uneven as in conversations.

/// Replies are longer than questions: a question takes a fifth of a turn's bytes.
pub(crate) const QUESTION_SHARE: u64 = 5;

/// The percentages by which a turn is longer than the average. The next turn is shorter by the same.
const UNEVENNESS: [u64; 5] = [40, 10, 0, 30, 20];

const QUESTIONS: &str =
    "今天过得怎么样？你还记得我上次说想学做饭吗？我试了一次，鸡蛋煎糊了，可是很开心。";

const REPLIES: &str = "刚刚在海边散步，风很轻，云走得很慢。我记得你喜欢下雨天，所以给你留了一个靠窗的位置。别着急，慢慢说，我在听。";

/// Returns the questions and replies of one session, exactly `messages` × `bytes` long together. Which turns are long
/// differs from session to session, so that different packings of the list are measured.
pub(crate) fn conversation(session: u64, messages: u64, bytes: u64) -> Vec<(String, String)> {
    let turns = messages / 2;
    (0..turns)
        .map(|turn| {
            let average = 2 * bytes;
            let last_alone = turns % 2 == 1 && turn == turns - 1;
            let percent = if last_alone {
                0
            } else {
                uneven(session + turn / 2)
            };
            let difference = average * percent / 100;
            let long = turn % 2 == 0;
            let both = if long {
                average + difference
            } else {
                average - difference
            };
            let question = both / QUESTION_SHARE;
            (text(QUESTIONS, question), text(REPLIES, both - question))
        })
        .collect()
}

fn uneven(number: u64) -> u64 {
    UNEVENNESS
        .iter()
        .copied()
        .cycle()
        .nth((number % 5) as usize)
        .unwrap_or(0)
}

/// Returns text of exactly this many bytes of UTF-8.
fn text(sentences: &str, bytes: u64) -> String {
    let mut text = String::new();
    for character in sentences.chars().cycle() {
        let longer = text.len() + character.len_utf8();
        if longer as u64 > bytes {
            break;
        }
        text.push(character);
    }
    while (text.len() as u64) < bytes {
        text.push('.');
    }
    text
}
