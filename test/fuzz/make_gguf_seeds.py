#!/usr/bin/env python3
"""make_gguf_seeds.py - writes the seeds of the GGUF fuzz target: make_gguf_seeds.py FOLDER.

One file per value type, tensor type and edge, each below 4 KB.  All are one-layer models with eight
tokens, so that a mutation can reach the configuration and the tokenizer; names tell what is special.
"""
import os
import struct
import sys

U8, I8, U16, I16, U32, I32, F32, BOOL, STR, ARR, U64, I64, F64 = range(13)
CODE = {U8: 'B', I8: 'b', U16: 'H', I16: 'h', U32: 'I', I32: 'i', F32: 'f', BOOL: '?', U64: 'Q',
        I64: 'q', F64: 'd'}
TYPES = {'f32': (0, 1, 4), 'f16': (1, 1, 2), 'bf16': (30, 1, 2), 'q4_0': (2, 32, 18),
         'q4_1': (3, 32, 20), 'q5_0': (6, 32, 22), 'q5_1': (7, 32, 24), 'q8_0': (8, 32, 34),
         'q4_k': (12, 256, 144), 'q5_k': (13, 256, 176), 'q6_k': (14, 256, 210)}


def text(s):
    s = s.encode() if isinstance(s, str) else s
    return struct.pack('<Q', len(s)) + s


def value(kind, v):
    if kind == STR:
        return text(v)
    if kind == ARR:
        elem, items = v
        return struct.pack('<IQ', elem, len(items)) + b''.join(value(elem, i) for i in items)
    return struct.pack('<' + CODE[kind], v)


def model(arch, extra=(), drop=(), tokenizer='llama'):
    """The key-values of a one-layer model: {key: (type, value)}."""
    norm = 'layer_norm_epsilon' if arch in ('gpt2', 'phi2', 'gptneox') else 'layer_norm_rms_epsilon'
    kv = {'general.architecture': (STR, arch)}
    for name, v in (('block_count', 1), ('context_length', 8), ('embedding_length', 4),
                    ('feed_forward_length', 4), ('attention.head_count', 2)):
        kv[f'{arch}.{name}'] = (U32, v)
    kv[f'{arch}.attention.{norm}'] = (F32, 1e-5)
    kv['tokenizer.ggml.model'] = (STR, tokenizer)
    pieces = ['<unk>', '<s>', '</s>', 'a', 'b', 'ab', '<0x0A>', '\u2581']
    kv['tokenizer.ggml.tokens'] = (ARR, (STR, pieces))
    kv['tokenizer.ggml.token_type'] = (ARR, (I32, [2, 3, 3, 1, 1, 1, 6, 1]))
    if tokenizer == 'llama':
        kv['tokenizer.ggml.scores'] = (ARR, (F32, [0, 0, 0, -3, -4, -1, 0, -2]))
    else:
        kv['tokenizer.ggml.merges'] = (ARR, (STR, ['a b']))
    kv['tokenizer.ggml.eos_token_id'] = (U32, 2)
    kv.update(extra)
    for key in drop:
        del kv[key]
    return kv


BASIC = (('token_embd.weight', 'f32', (4, 8)), ('output_norm.weight', 'f32', (4,)),
         ('blk.0.attn_q.weight', 'f16', (4, 4)))


def build(kv, tensors=BASIC, version=3, align=32, tail=b''):
    head, info, data = b'', b'', b''
    for key, (kind, v) in kv.items():
        head += text(key) + struct.pack('<I', kind) + value(kind, v)
    for name, kind, dims in tensors:
        number, block, size = TYPES[kind]
        count = 1
        for d in dims:
            count *= d
        data += b'\0' * (-len(data) % align)
        info += text(name) + struct.pack('<I', len(dims)) + struct.pack(f'<{len(dims)}Q', *dims)
        info += struct.pack('<IQ', number, len(data))
        data += bytes(i % 64 for i in range(count // block * size))
    head = struct.pack('<4sIQQ', b'GGUF', version, len(tensors), len(kv)) + head + info
    return head + b'\0' * (-len(head) % align) + data + tail


def seeds():
    plain = model('llama')
    for version in (2, 3):
        yield f'version_{version}', build(plain, version=version)
    for arch in ('llama', 'qwen2', 'qwen3', 'phi3', 'gemma'):
        yield f'arch_{arch}', build(model(arch))
    for arch in ('gpt2', 'phi2', 'gptneox'):
        yield f'arch_{arch}', build(model(arch, tokenizer='gpt2'))
    names = 'u8 i8 u16 i16 u32 i32 f32 bool string array u64 i64 f64'.split()
    for kind, name in enumerate(names):
        if kind not in (STR, ARR):
            yield f'value_{name}', build({**plain, 'x.v': (kind, 1), 'x.a': (ARR, (kind, [1, 0, 1]))})
    yield 'value_string', build({**plain, 'x.v': (STR, 'text'), 'x.a': (ARR, (STR, ['', 'a', 'bc']))})
    yield 'array_empty', build({**plain, 'x.a': (ARR, (U64, []))})
    for name, (_, block, _) in TYPES.items():
        yield f'tensor_{name}', build(plain, BASIC + (('blk.0.ffn_up.weight', name, (block, 2)),))
    yield 'no_tensors', build(plain, ())
    yield 'no_keys', build({})
    yield 'four_dimensions', build(plain, (('token_embd.weight', 'f32', (4, 2, 2, 2)),))
    yield 'align_1', build({'general.alignment': (U32, 1), **plain}, align=1)
    yield 'align_64', build({'general.alignment': (U32, 64), **plain}, align=64)
    yield 'trailing_bytes', build(plain, tail=b'more')
    yield 'split_part', build({**plain, 'split.no': (U16, 0), 'split.count': (U16, 2),
                               'split.tensors.count': (I32, 3)})
    yield 'split_of_one', build({**plain, 'split.no': (U16, 0), 'split.count': (U16, 1)})
    freqs = BASIC + (('rope_freqs.weight', 'f32', (1,)),)
    yield 'rope_freqs', build(plain, freqs)
    yield 'rope_linear', build(model('llama', {'llama.rope.scaling.type': (STR, 'linear'),
                                               'llama.rope.scaling.factor': (F32, 2)}))
    yield 'rope_yarn', build(model('llama', {'llama.rope.scaling.type': (STR, 'yarn')}))
    yield 'experts', build(model('llama', {'llama.expert_count': (U32, 8)}))
    yield 'ids_none', build(model('llama', {'tokenizer.ggml.bos_token_id': (U32, 2**32 - 1)}))
    yield 'eot', build(model('llama', {'tokenizer.ggml.eot_token_id': (U32, 1),
                                       'tokenizer.ggml.add_bos_token': (BOOL, False)}))
    yield 'template', build(model('llama', {'tokenizer.chat_template': (STR, '{{ bos }}')}))
    yield 'bpe_llama3', build(model('llama', {'tokenizer.ggml.pre': (STR, 'llama-bpe')},
                                    tokenizer='gpt2'))
    yield 'big_endian', b'GGUF' + struct.pack('>IQQ', 3, 0, 0)
    yield 'empty', b''


def main():
    folder = sys.argv[1]
    os.makedirs(folder, exist_ok=True)
    n = 0
    for name, data in seeds():
        assert len(data) < 4096, name
        with open(os.path.join(folder, name), 'wb') as f:
            f.write(data)
        n += 1
    print(f'{n} seeds in {folder}')


if __name__ == '__main__':
    main()
