// A request as code to paste.

/** @typedef {{url: string, file: string, type: string, keyed: boolean}} Request */

/** @param {string} text quoted for a POSIX shell */
export const shellQuoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

/** @param {string} text as a Python literal: JSON's escapes are Python's too */
export const pythonQuoted = (text) => JSON.stringify(text);

/** @param {Request} request */
export function curl({ url, file, type, keyed }) {
  const lines = [`curl ${shellQuoted(url)}`, `--data-binary ${shellQuoted(`@${file}`)}`, `-H ${shellQuoted(`Content-Type: ${type}`)}`];
  if (keyed) lines.push('-H "Authorization: Bearer $LCCL_API_KEY"');
  return lines.join(" \\\n  ");
}

/** @param {Request} request */
export function python({ url, file, type, keyed }) {
  const headers = [`"Content-Type": ${pythonQuoted(type)}`];
  if (keyed) headers.push('"Authorization": f"Bearer {os.environ[\'LCCL_API_KEY\']}"');
  return `import json
${keyed ? "import os\n" : ""}from pathlib import Path
from urllib.request import Request, urlopen

request = Request(
    ${pythonQuoted(url)},
    data=Path(${pythonQuoted(file)}).read_bytes(),
    headers={${headers.join(", ")}},
)
print(json.dumps(json.load(urlopen(request)), indent=2))`;
}
