/** A plain HTTP client for these tests: it hides nothing that a fault does to a connection. */
import { request as requestHttp, type Agent, type IncomingHttpHeaders } from 'node:http';
import { request as requestHttps } from 'node:https';

export interface Answer {
  status: number;
  headers: IncomingHttpHeaders;
  rawHeaders: string[];
  body: Buffer;
  /** The code of the error that ended the body early. */
  broken?: string;
}

export interface Question {
  method?: string;
  headers?: Record<string, string>;
  body?: string;
  ca?: string;
  agent?: Agent;
  /** Hang up after this many bytes of the body. */
  stopAfter?: number;
}

/** Rejects when no answer comes; an answer that breaks off resolves with what came, and `broken`. */
export function ask(url: string, question: Question = {}): Promise<Answer> {
  const { method = 'GET', headers = {}, ca, agent, stopAfter = Infinity } = question;
  const send = url.startsWith('https:') ? requestHttps : requestHttp;
  return new Promise((resolve, reject) => {
    let answered = false;
    const request = send(url, { method, headers, ...(ca ? { ca } : {}), agent: agent ?? false }, (response) => {
      answered = true;
      const parts: Buffer[] = [];
      let size = 0;
      const settle = (broken?: string) => {
        resolve({
          status: response.statusCode ?? 0,
          headers: response.headers,
          rawHeaders: response.rawHeaders,
          body: Buffer.concat(parts),
          ...(broken ? { broken } : {}),
        });
      };
      response.on('data', (part: Buffer) => {
        parts.push(part);
        size += part.length;
        if (size >= stopAfter) request.destroy(Object.assign(new Error('enough'), { code: 'ENOUGH' }));
      });
      response.on('end', () => {
        settle();
      });
      response.on('error', (error: NodeJS.ErrnoException) => {
        settle(error.code ?? 'UNKNOWN');
      });
    });
    request.on('error', (error) => {
      if (!answered) reject(error);
    });
    request.end(question.body);
  });
}

/** The JSON of an answer. */
export function json(answer: Answer): Record<string, unknown> {
  return JSON.parse(answer.body.toString()) as Record<string, unknown>;
}
