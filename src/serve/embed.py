#!/usr/bin/env python3
"""embed.py OUT.c FILE... - the files of the chat page as C arrays (page.h); index.html becomes "/"."""
import os
import sys

TYPES = {
    '.html': 'text/html; charset=utf-8',
    '.js': 'text/javascript; charset=utf-8',
    '.css': 'text/css; charset=utf-8',
    '.svg': 'image/svg+xml',
    '.png': 'image/png',
    '.ico': 'image/x-icon',
    '.woff2': 'font/woff2',
}


def main():
    out, paths, rows = sys.argv[1], sys.argv[2:], []
    with open(out, 'w', encoding='utf-8') as f:
        f.write('#include "serve/page.h"\n')
        for i, path in enumerate(sorted(paths)):
            with open(path, 'rb') as g:
                data = g.read()
            name = os.path.basename(path)
            f.write(f'static const unsigned char file{i}[] = {{\n')
            for at in range(0, len(data), 20):
                f.write(','.join(map(str, data[at:at + 20])) + ',\n')
            f.write('};\n')
            where = '/' if name == 'index.html' else '/' + name
            rows.append(f'    {{"{where}", "{TYPES[os.path.splitext(name)[1]]}", file{i}, {len(data)}}},\n')
        f.write('const struct page_file page_files[] = {\n' + ''.join(rows) + '    {0}};\n')
        f.write(f'const int page_count = {len(rows)};\n')


if __name__ == '__main__':
    main()
