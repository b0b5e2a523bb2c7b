/**
 * Extended headers of the POSIX pax format: records that say what the fixed fields of a tar header can't hold.
 * Pure. Source of the format: POSIX.1-2017, pax, "pax Extended Header".
 */

/** Key → value; values are raw bytes, because names on a Linux disk need not be UTF-8. */
export type PaxRecords = ReadonlyMap<string, Buffer>;

/** The body of an extended header: one `<length> <key>=<value>\n` for each record, in the map's order. */
export function encodePax(records: PaxRecords): Buffer {
  const parts: Buffer[] = [];
  for (const [key, value] of records) {
    const body = Buffer.concat([Buffer.from(` ${key}=`), value, Buffer.from('\n')]);
    parts.push(Buffer.from(String(recordLength(body.length))), body);
  }
  return Buffer.concat(parts);
}

/** A record's length counts its own digits, so it's searched: adding digits may add one more digit. */
function recordLength(bodyLength: number): number {
  let length = bodyLength;
  for (;;) {
    const next = bodyLength + String(length).length;
    if (next === length) return length;
    length = next;
  }
}
