/** Answers as data: what will be sent, before anything decides how well the network carries it. Pure. */

export interface Reply {
  readonly status: number;
  readonly headers: Record<string, string | string[]>;
  readonly body: Buffer;
}

export const NO_BODY = Buffer.alloc(0);

/** An error as the distribution specification writes it: `{"errors":[{"code","message","detail"}]}`. */
export function errorReply(
  status: number,
  code: string,
  message: string,
  detail?: unknown,
  headers: Record<string, string | string[]> = {},
): Reply {
  return jsonReply(status, { errors: [{ code, message, ...(detail === undefined ? {} : { detail }) }] }, headers);
}

export function jsonReply(status: number, body: object, headers: Record<string, string | string[]> = {}): Reply {
  return {
    status,
    headers: { 'Content-Type': 'application/json; charset=utf-8', ...headers },
    body: Buffer.from(`${JSON.stringify(body)}\n`),
  };
}
