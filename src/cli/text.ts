/**
 * Text from outside, made fit for a terminal: labels, media types and the words of a registry are hostile.
 *
 * Written out are control characters (escape sequences), what changes the direction of writing, and what takes no place.
 */
const HIDDEN =
  // eslint-disable-next-line no-control-regex, no-misleading-character-class
  /[\u0000-\u001f\u007f-\u009f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\u{1d173}-\u{1d17a}\u{e0000}-\u{e0fff}]/gu;

/** A text as part of one line. */
export function printable(text: string): string {
  return text.replace(HIDDEN, (letter) => `\\u{${(letter.codePointAt(0) ?? 0).toString(16)}}`);
}

/** A value as JSON of the same meaning; line ends of its own layout stay. */
export function json(value: unknown, indent?: number): string {
  return JSON.stringify(value, null, indent).replace(HIDDEN, (letter) =>
    letter === '\n' ? letter : [...Array(letter.length).keys()].map((at) => unit(letter.charCodeAt(at))).join(''),
  );
}

/** Bytes as they were served; a terminal gets them escaped, line ends and tabs apart. */
export function asServed(text: string, terminal: boolean): string {
  return terminal ? text.replace(HIDDEN, (letter) => (/[\n\t]/.test(letter) ? letter : printable(letter))) : text;
}

function unit(code: number): string {
  return `\\u${code.toString(16).padStart(4, '0')}`;
}
