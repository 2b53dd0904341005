// Reads an archive with pmtiles.js and prints what it found, as JSON:
// node read.mjs ARCHIVE Z/X/Y...
import { open } from "node:fs/promises";
import { createHash } from "node:crypto";
import { PMTiles } from "pmtiles";

const [path, ...tiles] = process.argv.slice(2);
const file = await open(path);
const source = {
  getKey: () => path,
  async getBytes(offset, length) {
    const buffer = new Uint8Array(length);
    const { bytesRead } = await file.read(buffer, 0, length, offset);
    return { data: buffer.buffer.slice(0, bytesRead) };
  },
};
const archive = new PMTiles(source);
const header = await archive.getHeader();
const metadata = await archive.getMetadata();
const digests = {};
for (const name of tiles) {
  const [z, x, y] = name.split("/").map(Number);
  const tile = await archive.getZxy(z, x, y);
  digests[name] = tile ? createHash("sha256").update(Buffer.from(tile.data)).digest("hex") : null;
}
console.log(JSON.stringify({ header, metadata, digests }));
await file.close();
