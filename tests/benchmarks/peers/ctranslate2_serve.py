"""CTranslate2 on a model folder: decoding at batch 1 and 8, and prefill. Prints one JSON object.

Needs ctranslate2, transformers and torch; run by bench_serve in an environment of its own.
"""

import json
import sys
import time
from pathlib import Path


def main() -> None:
    """Arguments: model folder, folder for the converted model, prompt ids as JSON, new tokens, threads."""
    model, out, prompt_json, new_text, threads = sys.argv[1:]
    import ctranslate2
    from ctranslate2.converters import TransformersConverter

    if not (Path(out) / "model.bin").exists():
        TransformersConverter(model).convert(out, quantization="float32", force=True)
        path = Path(out) / "config.json"  # the benchmark's tokenizer names no unknown token, which CTranslate2 wants
        tokens = dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>")
        path.write_text(json.dumps({**json.loads(path.read_text()), **tokens, "layer_norm_epsilon": 1e-5}))
    generator = ctranslate2.Generator(
        out, device="cpu", compute_type="float32", intra_threads=int(threads), inter_threads=1
    )
    vocabulary = json.loads((Path(out) / "vocabulary.json").read_text())
    prompt, new = [vocabulary[token] for token in json.loads(prompt_json)], int(new_text)

    def seconds(batch: int, length: int) -> float:
        best = float("inf")
        for _ in range(3):
            started = time.perf_counter()
            results = generator.generate_batch(
                [prompt] * batch, max_length=length, min_length=length, sampling_topk=1, include_prompt_in_result=False
            )
            best = min(best, time.perf_counter() - started)
            assert all(len(result.sequences_ids[0]) == length for result in results)
        return best

    first = {batch: seconds(batch, 1) for batch in (1, 8)}
    rates = {f"decode_b{batch}": batch * (new - 1) / (seconds(batch, new) - first[batch]) for batch in (1, 8)}
    answer = generator.generate_batch(
        [prompt], max_length=new, min_length=new, sampling_topk=1, include_prompt_in_result=False
    )
    figures = {**rates, "prefill": len(prompt) / first[1], "version": ctranslate2.__version__}
    print(json.dumps({**figures, "answer": answer[0].sequences_ids[0]}))


main()
