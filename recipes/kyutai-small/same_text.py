"""Whether a model writes the same text in three ways: `python3 same_text.py MODEL MANIFEST [CLIPS]`.

Whole clips, live in pieces of uneven lengths, and by the names of `transformers`; prints the clips that differ.
"""

import sys
from pathlib import Path

import earful
from earful import KyutaiSpeechToTextForConditionalGeneration, KyutaiSpeechToTextProcessor, Text
from earful.audio.io import read_audio
from earful.train.score import read_references

PIECES = (1, 777, 1920, 30_011)  # samples


def main(folder: str, manifest: str, clips: int = 50) -> int:
    model = earful.load(folder, dtype="float32")
    processor = KyutaiSpeechToTextProcessor.from_pretrained(folder)
    named = KyutaiSpeechToTextForConditionalGeneration.from_pretrained(folder, dtype="float32")
    references = read_references(Path(manifest))[:clips]
    differ = words = 0
    for reference in references:
        whole = read_audio(reference.audio, model.rate_hz)
        first = round(reference.start_s * model.rate_hz)
        clip = whole[first:]
        if reference.duration_s is not None:
            clip = clip[: round(reference.duration_s * model.rate_hz)]
        ids = named.generate(**processor(clip, return_tensors="pt"))
        texts = {
            "transcribe": model.transcribe(clip).text,
            "stream": live(model, clip),
            "generate": processor.batch_decode(ids, skip_special_tokens=True)[0].strip(),
        }
        words += len(texts["transcribe"].split())
        if len(set(texts.values())) > 1:
            differ += 1
            print(texts)
    print(f"{len(references) - differ} of {len(references)} clips alike, {words} words")
    return 1 if differ else 0


def live(model, clip) -> str:
    events, at, turn = [], 0, 0
    with model.stream() as session:
        while at < len(clip):
            piece = PIECES[turn % len(PIECES)]
            events += session.feed(clip[at : at + piece])
            at, turn = at + piece, turn + 1
        events += session.finish()
    return "".join(event.text for event in events if isinstance(event, Text)).strip()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3], *map(int, sys.argv[3:])))
