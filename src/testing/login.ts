/** Reads the Basic logins of requests. Pure. Source: RFC 7617. */

/** The user whose name and password a Basic header carries; undefined: nobody, or a wrong password. */
export function userOf(header: string | undefined, users: Record<string, string>): string | undefined {
  const [, encoded] = /^basic +([A-Za-z0-9+/=]+)$/i.exec(header ?? '') ?? [];
  if (encoded === undefined) return undefined;
  const [, name, password] = /^([^:]*):([^]*)$/.exec(Buffer.from(encoded, 'base64').toString()) ?? [];
  if (name === undefined || !Object.hasOwn(users, name)) return undefined;
  return users[name] === password ? name : undefined;
}
